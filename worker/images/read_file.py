"""Path -> bytes and stamp: a regular file, or a part of one, below the directories allowed.

Never hangs on what is no file, never reads past the limit.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from worker.contract import failures
from worker.contract.local.files import FLAGS
from worker.contract.messages import Stamp
from worker.errors import (
    ImageError,
    NotAFileError,
    NotFoundError,
    OutsideRootsError,
    TooLargeError,
    UnreadableError,
)

if TYPE_CHECKING:
    from worker.contract.messages import Part

_ERRORS: Final[dict[str, type[ImageError]]] = {
    error.code: error for error in (NotFoundError, NotAFileError, UnreadableError)
}
_NO_NAME: Final = "the path holds characters that no file name can"


class Original(NamedTuple):
    """An image's bytes as they are stored. A blob has the stamp that its sender knew."""

    data: bytes
    stamp: Stamp | None


def read_file(path: bytes, part: Part | None, roots: Sequence[bytes], max_bytes: int) -> Original:
    """Return the bytes of a file, or of a part of it; none if it is empty.

    Raises:
        ImageError: of stage `read`.
    """
    try:
        # Nothing is opened yet, not even a FIFO: this is a handle on what the path leads to at this
        # moment, links resolved. What is checked is what is read, whatever happens to the path.
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            itself = f"/proc/self/fd/{handle}"
            _check(os.readlink(os.fsencode(itself)), roots)  # noqa: PTH115 - of bytes
            _refuse_kinds(os.fstat(handle))
            descriptor = os.open(itself, os.O_RDONLY | FLAGS)
        finally:
            os.close(handle)
        try:
            if part:
                return Original(_read_part(descriptor, part, max_bytes), None)
            return _read_regular(descriptor, max_bytes)
        finally:
            os.close(descriptor)
    except OSError as e:
        raise _explain(e) from e
    except ValueError as e:  # A NUL.
        raise NotFoundError(_NO_NAME) from e


def encoded(path: str) -> bytes:
    """Return the name of a file as the system has it.

    Raises:
        NotFoundError: no file can have it.
    """
    try:
        return os.fsencode(path)
    except ValueError as e:  # A surrogate that stands for no byte.
        raise NotFoundError(_NO_NAME) from e


def _read_regular(descriptor: int, max_bytes: int) -> Original:
    status = os.fstat(descriptor)
    if status.st_size > max_bytes:
        raise TooLargeError(status.st_size, max_bytes)
    # What a growing file gains meanwhile is left: the limit holds whatever happens to it.
    return Original(read_bytes(descriptor, status.st_size), Stamp(status.st_size, status.st_mtime))


def read_bytes(descriptor: int, size: int) -> bytes:
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


def _check(real: bytes, roots: Sequence[bytes]) -> None:
    for root in roots:
        real_root = os.path.realpath(root)
        if os.path.commonpath([real, real_root]) == real_root:
            return
    raise OutsideRootsError


def _explain(error: OSError) -> ImageError:
    failure = failures.of_os_error(error, "worker")
    return _ERRORS[failure.code](failure.message)
