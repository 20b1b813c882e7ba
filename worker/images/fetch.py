"""URL -> bytes, from a web server or an object store. Fetches only below the prefixes allowed.

Credentials are the worker's own: those that each store's library finds in its environment.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from worker.contract.messages import Stamp
from worker.contract.urls import is_fetchable, is_web, scheme_of, store_remedy
from worker.errors import (
    EmptyFileError,
    NotFoundError,
    OutsideRootsError,
    TooLargeError,
    UnreadableError,
)

if TYPE_CHECKING:
    from worker.contract.messages import Part

ANY: Final = "*"
_CONNECT_S: Final = 10.0
_READ_S: Final = 60.0
_MOST_HOPS: Final = 5
_NOT_FOUND: Final = frozenset({404, 410})
_TIMES: Final = ("LastModified", "last_modified", "updated", "mtime", "created")
_DETAIL_CHARS: Final = 160


class Fetched(NamedTuple):
    """What a URL gave, and its stamp as far as the server knows it."""

    data: bytes
    stamp: Stamp | None


def fetch(url: str, prefixes: Sequence[str], max_bytes: int, part: Part | None = None) -> Fetched:
    """Return the content of a URL, or a part of it: 1 to `max_bytes` bytes.

    Raises:
        ImageError: of stage `read`.
    """
    if not is_allowed(url, prefixes):
        raise _outside()
    if part:
        _checked(part.size_bytes, max_bytes)
    if is_web(url):
        found = _from_web(url, prefixes, max_bytes, part)
    else:
        found = _from_store(url, max_bytes, part)
    if not found.data:
        raise EmptyFileError
    return found


def is_allowed(url: str, prefixes: Sequence[str]) -> bool:
    """Whether a URL lies below one of the prefixes; `*` is any.

    A prefix without a path, or a host, is all that follows. Steps upwards and credentials in a URL
    are never allowed.
    """
    wanted = urlsplit(url)
    if not is_fetchable(url) or "@" in wanted.netloc or "::" in url:
        return False
    if ".." in unquote(wanted.path).replace("\\", "/").split("/"):
        return False
    return any(prefix == ANY or _is_below(wanted, urlsplit(prefix)) for prefix in prefixes)


def _is_below(wanted: SplitResult, prefix: SplitResult) -> bool:
    if wanted.scheme.lower() != prefix.scheme.lower():
        return False
    if prefix.netloc and wanted.netloc.lower() != prefix.netloc.lower():
        return False
    root = prefix.path.rstrip("/")
    return wanted.path == root or wanted.path.startswith(f"{root}/")


def _from_web(url: str, prefixes: Sequence[str], max_bytes: int, part: Part | None) -> Fetched:
    import urllib3  # noqa: PLC0415 - only who fetches needs it

    headers = {"Accept": "image/*,*/*;q=0.5"}
    if part:
        headers["Range"] = f"bytes={part.offset}-{part.offset + part.size_bytes - 1}"
    timeout = urllib3.Timeout(connect=_CONNECT_S, read=_READ_S)
    try:
        for _ in range(_MOST_HOPS):
            answer = _pool().request(
                *("GET", url),
                headers=headers,
                timeout=timeout,
                redirect=False,
                preload_content=False,
            )
            try:
                place = answer.get_redirect_location()
                if not place:
                    return _body(answer, max_bytes, part)
            finally:
                answer.release_conn()
            # Wherever a server sends us, what is allowed is decided here.
            url = urljoin(url, place)
            if not is_allowed(url, prefixes):
                raise _outside()
    except urllib3.exceptions.HTTPError as e:
        raise _unreadable(e) from e
    msg = "the server sends us from one address to the next"
    raise UnreadableError(msg)


def _body(answer: Any, max_bytes: int, part: Part | None) -> Fetched:
    if answer.status in _NOT_FOUND:
        msg = f"the server has no such image ({answer.status})"
        raise NotFoundError(msg)
    if answer.status != (206 if part else 200):
        msg = f"the server does not give the image: {answer.status} {answer.reason or ''}".strip()
        raise UnreadableError(msg)
    stated = int(answer.headers.get("Content-Length") or 0)
    if stated > max_bytes:
        answer.close()
        raise TooLargeError(stated, max_bytes)
    data = answer.read(max_bytes + 1, decode_content=True)
    if len(data) > max_bytes:
        answer.close()
        raise TooLargeError(len(data), max_bytes)
    changed = answer.headers.get("Last-Modified")
    try:
        stamp = Stamp(len(data), parsedate_to_datetime(changed).timestamp()) if changed else None
    except ValueError:
        stamp = None
    return Fetched(data, None if part else stamp)


def _from_store(url: str, max_bytes: int, part: Part | None) -> Fetched:
    import fsspec  # noqa: PLC0415

    try:
        store, path = fsspec.url_to_fs(url)
        if part:
            # By name: not all stores have them at the same place.
            end = part.offset + part.size_bytes
            return Fetched(store.cat_file(path, start=part.offset, end=end), None)
        about = store.info(path)
        size_bytes = _checked(int(about.get("size") or 0), max_bytes)
        # What a growing file gains meanwhile is left: the limit holds whatever happens to it.
        return Fetched(store.cat_file(path, start=0, end=size_bytes), _stamp(about))
    except ImportError as e:
        msg = f"this worker cannot read {scheme_of(url)}:// yet: {store_remedy(url) or e}"
        raise UnreadableError(msg) from e
    except FileNotFoundError as e:
        msg = "the store has no such image"
        raise NotFoundError(msg) from e
    except TooLargeError:
        raise
    except Exception as e:  # Each store has errors of its own, and many.
        raise _unreadable(e) from e


def _checked(size_bytes: int, max_bytes: int) -> int:
    if size_bytes > max_bytes:
        raise TooLargeError(size_bytes, max_bytes)
    return size_bytes


def _stamp(about: dict[str, Any]) -> Stamp | None:
    for name in _TIMES:
        changed = about.get(name)
        if isinstance(changed, datetime):
            return Stamp(int(about["size"]), changed.timestamp())
        if isinstance(changed, (int, float)):
            return Stamp(int(about["size"]), float(changed))
    return None


def _outside() -> OutsideRootsError:
    return OutsideRootsError(
        "the address lies outside those that this worker may fetch from (worker start --allow URL)"
    )


def _unreadable(error: Exception) -> UnreadableError:
    detail = " ".join(str(error).split())[:_DETAIL_CHARS]
    return UnreadableError(f"the image cannot be fetched: {detail or type(error).__name__}")


def _pool() -> Any:
    global _shared  # noqa: PLW0603 - one pool of connections for the process
    if _shared is None:
        import urllib3  # noqa: PLC0415

        _shared = urllib3.PoolManager(maxsize=16, retries=urllib3.Retry(2, redirect=False))
    return _shared


_shared: Any = None
