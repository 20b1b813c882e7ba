"""Path -> bytes of an image and the stamp of its file, or why there are none."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from producer.sources import stores as urls
from worker.contract.messages import Failure, ImageRef, Part, Stamp

_KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read_image(ref: ImageRef, max_bytes: int) -> tuple[bytes, Stamp | None] | Failure:
    """Return a file's bytes and stamp, or why there are none, with the codes of workers."""
    if urls.is_url(ref.place):
        return failed_to_read("unreadable", "workers fetch what lies at a URL: leave --blobs away")
    try:
        # Looked at before it is opened: to open a FIFO or a device can be an act.
        if refused := _refused(os.stat(ref.place), max_bytes, ref.part):
            return refused
        # Non-blocking, should it have become a FIFO meanwhile.
        descriptor = os.open(ref.place, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if ref.part:
                return os.pread(descriptor, ref.part.size_bytes, ref.part.offset), None
            # What a growing file gains meanwhile is left: the limit holds whatever happens to it.
            stamp = Stamp(status.st_size, status.st_mtime)
            return _refused(status, max_bytes) or (file.read(status.st_size), stamp)
    except OSError as e:
        if e.errno in {errno.ENOENT, errno.ENOTDIR}:
            return failed_to_read("not_found", "there is no such file on the producer's machine")
        reason = (e.strerror or type(e).__name__).lower()
        return failed_to_read("unreadable", f"the file cannot be read: {reason}")


def _refused(status: os.stat_result, max_bytes: int, part: Part | None = None) -> Failure | None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        return failed_to_read("not_a_file", f"this is {kind}, not a regular file")
    size_bytes = part.size_bytes if part else status.st_size
    if not size_bytes:
        return failed_to_read("empty_file", "the file is empty")
    if size_bytes > max_bytes:
        message = f"{size_bytes:,} bytes are more than the limit of {max_bytes:,}"
        return failed_to_read("too_large", f"{message} (WANWU_MAX_FILE_BYTES)")
    return None


def failed_to_read(code: str, message: str) -> Failure:
    """Return the failure of an image that did not leave this machine."""
    return Failure(code, "read", message)
