"""URL -> the URLs of the images below it, listed by fsspec with the credentials of whoever asks.

Web servers have no directories: an http URL is an image, or a shard.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from producer.errors import StoreError
from worker.contract.i18n import gettext as _
from worker.contract.reasons import reason
from worker.contract.urls import is_fetchable, is_web, scheme_of, store_remedy

_MAGIC: Final = frozenset("*?[")


def find(url: str) -> Iterator[str]:
    """Yield the files at a URL: it is one itself, a directory, or a pattern.

    Raises:
        StoreError: what the store needs is not installed.
        OSError: it cannot be listed.
    """
    if is_web(url):
        yield url
        return
    store, path = _store(url)
    if _MAGIC & set(path):
        yield from map(store.unstrip_protocol, store.glob(path))
    elif url.endswith("/") or store.isdir(path):
        errors: list[OSError] = []
        for _, _, files in store.walk(path, detail=True, on_error=errors.append):
            yield from (store.unstrip_protocol(each["name"]) for each in files.values())
        if errors:
            raise errors[0]
    else:
        yield url


def open_url(url: str) -> IO[bytes]:
    """Open what lies at a URL, to be read in steps.

    Raises:
        StoreError: what the store needs is not installed.
        OSError: it cannot be read.
    """
    store, path = _store(url)
    opened: IO[bytes] = store.open(path, "rb")
    return opened


def upload(file: Path, url: str) -> None:
    """Put a file at a URL, whole.

    Raises:
        StoreError: what the store needs is not installed, or it does not take the file.
    """
    store, path = _store(url)
    with _as_store_error(url):
        store.put_file(str(file), path)


def download(url: str, file: Path) -> bool:
    """Fetch what lies at a URL into a file; return whether there was anything.

    Raises:
        StoreError: what the store needs is not installed, or it does not answer.
    """
    store, path = _store(url)
    with _as_store_error(url):
        if not store.exists(path):
            return False
        store.get_file(path, str(file))
    return True


def size(url: str) -> int:
    """Return how many bytes lie at a URL: 0 if nothing does, 1 if its store does not say.

    Raises:
        StoreError: what the store needs is not installed, or it does not answer.
    """
    store, path = _store(url)
    with _as_store_error(url):
        if not store.exists(path):
            return 0
        found = store.info(path).get("size")
        return 1 if found is None else int(found)


@contextmanager
def _as_store_error(url: str) -> Iterator[None]:
    try:
        yield
    except Exception as e:  # Each store has errors of its own, and many.
        msg = f"{url}: {reason(' '.join(str(e).split()) or type(e).__name__)}"
        raise StoreError(msg) from e


def check(url: str) -> None:
    """Make sure that a store can be spoken to, before any work begins.

    Raises:
        StoreError: what it needs is not installed.
    """
    if not is_web(url):
        _store(url)


def check_images(url: str) -> None:
    """Make sure that images at a URL can be listed here and fetched by workers.

    Raises:
        StoreError: workers do not fetch by this scheme, or what it needs is not installed here.
    """
    if not is_fetchable(url):
        msg = _("workers do not fetch images from {scheme}:// URLs").format(scheme=scheme_of(url))
        raise StoreError(msg)
    check(url)


def _store(url: str) -> tuple[Any, str]:
    try:
        if not importlib.util.find_spec("fsspec"):
            raise ImportError  # noqa: TRY301 - the same as without the store's own library
        import fsspec  # noqa: PLC0415 - only who names a URL needs it

        found: tuple[Any, str] = fsspec.url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as e:
        why = store_remedy(url) or (reason(str(e)) if str(e) else _("fsspec is needed"))
        msg = _("{scheme}:// URLs cannot be used here: {reason}").format(
            scheme=scheme_of(url), reason=why
        )
        raise StoreError(msg) from e
    # What their libraries log, tracebacks with it, is raised as well, and shown by us.
    logging.getLogger(type(found[0]).__module__.partition(".")[0]).addHandler(logging.NullHandler())
    return found
