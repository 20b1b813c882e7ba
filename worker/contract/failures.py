"""Why an image cannot be read: one code and one sentence for each reason.

A worker reads images from disks and stores; a producer that sends bytes along reads them itself.
Both report a failure in the same terms.
"""

from __future__ import annotations

import errno
import stat
from typing import Final, Literal

from worker.contract.messages import Failure

Machine = Literal["worker", "producer"]

NOT_FOUND: Final = "not_found"
UNREADABLE: Final = "unreadable"
NOT_A_FILE: Final = "not_a_file"
EMPTY_FILE: Final = "empty_file"
TOO_LARGE: Final = "too_large"
CANCELLED: Final = "cancelled"

_KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_NOT_FOUND_ERRORS: Final = frozenset({errno.ENOENT, errno.ENOTDIR})
# How the kernel refuses to open a socket, or a device without a driver.
_NOT_A_FILE_ERRORS: Final = frozenset({errno.ENXIO, errno.ENODEV})


def not_found(machine: Machine) -> Failure:
    """Return the failure of a path that leads nowhere on the machine that reads."""
    return _failure(NOT_FOUND, f"there is no such file on the {machine}'s machine")


def not_a_file(mode: int) -> Failure:
    """Return the failure of a path to anything but a regular file; `mode` is that of `os.stat`."""
    kind = _KINDS.get(stat.S_IFMT(mode))
    return _failure(
        NOT_A_FILE, f"this is {kind}, not a regular file" if kind else "this is not a regular file"
    )


def empty_file() -> Failure:
    """Return the failure of an image without bytes."""
    return _failure(EMPTY_FILE, "the file is empty")


def too_large(size_bytes: int, max_bytes: int) -> Failure:
    """Return the failure of an image with more bytes than `WANWU_MAX_FILE_BYTES` allows."""
    return _failure(
        TOO_LARGE,
        f"{size_bytes:,} bytes are more than the limit of {max_bytes:,} (WANWU_MAX_FILE_BYTES)",
    )


def path_too_long(characters: int) -> Failure:
    """Return the failure of a path that is longer than any file's."""
    return _failure(NOT_FOUND, f"a path of {characters:,} characters is longer than any file's")


def cancelled(job: str) -> Failure:
    """Return the failure of an image whose job was cancelled before anybody looked at it."""
    return Failure(CANCELLED, "job", f"job {job} was cancelled")


def unreadable(reason: str) -> Failure:
    """Return the failure of an image that cannot be read for a reason given as a sentence."""
    return _failure(UNREADABLE, reason)


def of_os_error(error: OSError, machine: Machine) -> Failure:
    """Return the failure of a file that the system refuses to open or to read."""
    if error.errno in _NOT_FOUND_ERRORS:
        return not_found(machine)
    if error.errno in _NOT_A_FILE_ERRORS:
        return not_a_file(0)
    reason = (error.strerror or type(error).__name__).lower()
    return unreadable(f"the file cannot be read: {reason}")


def of_status(mode: int, size_bytes: int, max_bytes: int) -> Failure | None:
    """Return the failure of a file by its `os.stat` mode and size, or None if it can be read."""
    if not stat.S_ISREG(mode):
        return not_a_file(mode)
    if not size_bytes:
        return empty_file()
    return too_large(size_bytes, max_bytes) if size_bytes > max_bytes else None


def _failure(code: str, message: str) -> Failure:
    return Failure(code, "read", message)
