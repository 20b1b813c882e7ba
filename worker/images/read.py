"""Image reference -> bytes and stamp, from a file, a part of one, a URL or Redis.

Never hangs, never reads past the limit.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from worker.contract import failures
from worker.contract.local.files import FLAGS
from worker.contract.messages import Stamp
from worker.contract.urls import is_url
from worker.errors import (
    BlobMissingError,
    EmptyFileError,
    ImageError,
    NotAFileError,
    NotFoundError,
    OutsideRootsError,
    ReportedError,
    TooLargeError,
    UnreadableError,
)
from worker.images.fetch import fetch

if TYPE_CHECKING:
    from worker.contract.messages import ImageRef, Part
    from worker.contract.settings import Settings
    from worker.contract.stores.blobs import BlobStore

_ERRORS: Final[dict[str, type[ImageError]]] = {
    error.code: error for error in (NotFoundError, NotAFileError, UnreadableError)
}


class Original(NamedTuple):
    """An image's bytes as they are stored. A blob has the stamp that its sender knew."""

    data: bytes
    stamp: Stamp | None


def read(ref: ImageRef, blobs: BlobStore, settings: Settings) -> Original:
    """Return the image's bytes, 1 to `settings.max_file_bytes` of them.

    Raises:
        ImageError: of stage `read`, or the failure that the producer reported.
        redis.RedisError: Redis is away; says nothing about the image.
    """
    if ref.error is not None:
        raise ReportedError(ref.error)
    if ref.blob is not None:
        found = Original(_read_blob(ref.blob, blobs, settings.max_file_bytes), ref.stamp)
    elif is_url(ref.place):
        fetched = fetch(ref.place, settings.image_urls, settings.max_file_bytes, ref.part)
        found = Original(*fetched)
    else:
        found = _read_file(ref, settings.image_roots, settings.max_file_bytes)
    if not found.data:
        raise EmptyFileError
    return found


def _read_blob(key: str, blobs: BlobStore, max_bytes: int) -> bytes:
    data = blobs.get(key)
    if data is None:
        raise BlobMissingError
    if len(data) > max_bytes:
        raise TooLargeError(len(data), max_bytes)
    return data


def _read_file(ref: ImageRef, roots: Sequence[str], max_bytes: int) -> Original:
    try:
        # Nothing is opened yet, not even a FIFO: this is a handle on what the path leads to at this
        # moment, links resolved. What is checked is what is read, whatever happens to the path.
        handle = os.open(os.fsencode(ref.place), os.O_PATH | os.O_CLOEXEC)
        try:
            itself = f"/proc/self/fd/{handle}"
            _check(os.readlink(os.fsencode(itself)), roots)  # noqa: PTH115 - of bytes
            _refuse_kinds(os.fstat(handle))
            descriptor = os.open(itself, os.O_RDONLY | FLAGS)
        finally:
            os.close(handle)
        try:
            if ref.part:
                return Original(_read_part(descriptor, ref.part, max_bytes), None)
            return _read_regular(descriptor, max_bytes)
        finally:
            os.close(descriptor)
    except OSError as e:
        raise _explain(e) from e
    except ValueError as e:
        # A NUL, or a surrogate that stands for no byte.
        msg = "the path holds characters that no file name can"
        raise NotFoundError(msg) from e


def _read_regular(descriptor: int, max_bytes: int) -> Original:
    status = os.fstat(descriptor)
    if status.st_size > max_bytes:
        raise TooLargeError(status.st_size, max_bytes)
    # What a growing file gains meanwhile is left: the limit holds whatever happens to it.
    return Original(_bytes(descriptor, status.st_size), Stamp(status.st_size, status.st_mtime))


def _bytes(descriptor: int, size: int) -> bytes:
    """Return `size` bytes, or all that there are. Mostly in one call: each lets threads change."""
    parts = []
    while size and (part := os.read(descriptor, size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _read_part(descriptor: int, part: Part, max_bytes: int) -> bytes:
    if part.size_bytes > max_bytes:
        raise TooLargeError(part.size_bytes, max_bytes)
    return os.pread(descriptor, part.size_bytes, part.offset)


def _refuse_kinds(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise NotAFileError(failures.not_a_file(status.st_mode).message)


def _check(real: bytes, roots: Sequence[str]) -> None:
    for root in roots:
        real_root = os.path.realpath(os.fsencode(root))
        if os.path.commonpath([real, real_root]) == real_root:
            return
    raise OutsideRootsError


def _explain(error: OSError) -> ImageError:
    failure = failures.of_os_error(error, "worker")
    return _ERRORS[failure.code](failure.message)
