"""Path -> bytes of an image and the stamp of its file, or why there are none."""

from __future__ import annotations

import os

from worker.contract import failures
from worker.contract.local.files import FLAGS
from worker.contract.messages import Failure, ImageRef, Part, Stamp
from worker.contract.urls import is_url


def read_image(ref: ImageRef, max_bytes: int) -> tuple[bytes, Stamp | None] | Failure:
    """Return a file's bytes and stamp, or why there are none, as workers report it."""
    if is_url(ref.place):
        return failures.unreadable("workers fetch what lies at a URL: send it without blobs")
    try:
        # Looked at before it is opened: to open a FIFO or a device can be an act.
        if refused := _refused(os.stat(ref.place), max_bytes, ref.part):
            return refused
        # Non-blocking, should it have become a FIFO meanwhile.
        descriptor = os.open(ref.place, os.O_RDONLY | FLAGS)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if ref.part:
                return os.pread(descriptor, ref.part.size_bytes, ref.part.offset), None
            # What a growing file gains meanwhile is left: the limit holds whatever happens to it.
            stamp = Stamp(status.st_size, status.st_mtime)
            return _refused(status, max_bytes) or (file.read(status.st_size), stamp)
    except OSError as e:
        return failures.of_os_error(e, "producer")
    except ValueError:
        # A NUL, or a surrogate that stands for no byte: no file has such a name.
        return failures.not_found("producer")


def _refused(status: os.stat_result, max_bytes: int, part: Part | None = None) -> Failure | None:
    size_bytes = part.size_bytes if part else status.st_size
    return failures.of_status(status.st_mode, size_bytes, max_bytes)
