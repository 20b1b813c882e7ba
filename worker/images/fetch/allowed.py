"""URL -> whether this worker may fetch it, and whether its server is allowed by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from worker.contract.urls import is_fetchable, is_store_server, is_web
from worker.errors import OutsideRootsError

ANY: Final = "*"
# Parsers drop or move what stands here, each in its own way; a header would end.
_CONTROLS: Final = frozenset(map(chr, [*range(32), 127]))


def is_allowed(url: str, prefixes: Sequence[str]) -> bool:
    """Whether a URL lies below one of the prefixes; `*` is any.

    A prefix without a path, or a host, is all that follows. Steps upwards, credentials and control
    characters in a URL are never allowed. A server of files (SFTP, SMB and so on) has to be named:
    it would be offered the worker's own credentials.
    """
    return _covering(url, prefixes, named=is_store_server(url))


def is_named(url: str, prefixes: Sequence[str]) -> bool:
    """Whether a prefix with a host covers the URL: then its server may be in a private network."""
    return _covering(url, prefixes, named=True)


def outside() -> OutsideRootsError:
    """Return the error of a URL that is not allowed."""
    return OutsideRootsError(
        "the address lies outside those that this worker may fetch from (worker start --allow URL)"
    )


def _covering(url: str, prefixes: Sequence[str], *, named: bool) -> bool:
    try:
        wanted = urlsplit(url)
    except ValueError:  # Brackets that hold no IPv6 address.
        return False
    if not is_fetchable(url) or "@" in wanted.netloc:
        return False
    # To fsspec, this is a URL within another.
    if "::" in url and not is_web(url):
        return False
    if not _CONTROLS.isdisjoint(url):
        return False
    if ".." in unquote(wanted.path).replace("\\", "/").split("/"):
        return False
    return any(_covers(prefix, wanted, named=named) for prefix in prefixes)


def _covers(prefix: str, wanted: SplitResult, *, named: bool) -> bool:
    if prefix == ANY:
        return not named
    try:
        allowed = urlsplit(prefix)
    except ValueError:
        return False
    if wanted.scheme.lower() != allowed.scheme.lower() or (named and not allowed.netloc):
        return False
    if allowed.netloc and wanted.netloc.lower() != allowed.netloc.lower():
        return False
    root = allowed.path.rstrip("/")
    return wanted.path == root or wanted.path.startswith(f"{root}/")
