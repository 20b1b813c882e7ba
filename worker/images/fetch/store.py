"""URL of an object store -> bytes and stamp, on the thread that calls.

Credentials are the worker's own: those that each store's library finds in its environment.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from worker.contract.messages import Stamp
from worker.contract.urls import scheme_of, store_remedy
from worker.errors import NotFoundError, TooLargeError, UnreadableError
from worker.images.fetch.failures import unreadable
from worker.images.read_file import Original

if TYPE_CHECKING:
    from worker.contract.messages import Part

_TIMES: Final = ("LastModified", "last_modified", "updated", "mtime", "created")


def read_store(url: str, max_bytes: int, part: Part | None) -> Original:
    """Return what lies at a URL, or a part of it.

    Raises:
        ImageError: of stage `read`.
    """
    import fsspec  # noqa: PLC0415 - only who fetches needs it

    try:
        store, path = fsspec.url_to_fs(url)
        if part:
            # By name: not all stores have them at the same place.
            end = part.offset + part.size_bytes
            return Original(store.cat_file(path, start=part.offset, end=end), None)
        about = store.info(path)
        size_bytes = _checked(int(about.get("size") or 0), max_bytes)
        # What a growing file gains meanwhile is left: the limit holds whatever happens to it.
        return Original(store.cat_file(path, start=0, end=size_bytes), _stamp(about))
    except ImportError as e:
        msg = f"this worker cannot read {scheme_of(url)}:// yet: {store_remedy(url) or e}"
        raise UnreadableError(msg) from e
    except FileNotFoundError as e:
        msg = "the store has no such image"
        raise NotFoundError(msg) from e
    except TooLargeError:
        raise
    except Exception as e:  # Each store has errors of its own, and many.
        raise unreadable(e) from e


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
