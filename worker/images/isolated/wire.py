"""What a worker and its decode processes send each other.

::

    worker --Order, and the bytes of blobs as handles--> decode process
    worker <--Reply-- decode process --pixels--> shared memory, a slot an image

Shapes: C colour channels (red, green, blue), H height, W width.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from worker.artifact.manifest import Preprocessing
from worker.contract.messages import Failure, Part, Stamp

Pixels = npt.NDArray[np.uint8]

# Images of an order. A process has two orders at a time, so that it need not wait for the next.
ORDER_IMAGES: Final = 4
ORDERS: Final = 2
SLOTS: Final = ORDER_IMAGES * ORDERS
# Of a message with the paths of an order; the kernel takes 208 KiB in one piece.
MAX_ORDER_BYTES: Final = 131_072
_CHANNELS: Final = 3
# Each field is written whole, the time before the number: whoever reads in between takes an image
# for younger than it is, never for older.
_PROGRESS: Final = struct.Struct("@dqq")
# The pixels begin at a page of their own.
_HEADER_BYTES: Final = mmap.PAGESIZE
# Instead of a time: the process does not work, but waits for others.
PAUSED_S: Final = float("inf")


class Item(msgspec.Struct, frozen=True, array_like=True):
    """An image: its path, or how many bytes the handle holds that came with the order.

    If it is large and others are in memory, it waits for them, or is put back.
    """

    path: bytes
    size_bytes: int
    part: Part | None
    thumbnail_px: int
    waits: bool


class Order(msgspec.Struct, frozen=True, array_like=True):
    """Up to `ORDER_IMAGES` images; their pixels go to the slots from `slot` on."""

    slot: int
    items: tuple[Item, ...]


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """What became of an image: its pixels are in the slot if there is no error.

    Or it was put back, until it can hold so many pixel locks. Of an error that is a fault of ours
    there is a traceback. Times are in milliseconds, and None for what was not begun.
    """

    error: Failure | None
    stamp: Stamp | None
    thumbnail: str | None
    read_ms: float | None
    decode_ms: float | None
    lacks_locks: int
    traceback: str


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """The outcomes of an order, one an image, in its order."""

    outcomes: tuple[Outcome, ...]


class Progress(NamedTuple):
    """When a process began its last image, on Linux' clock, and how many it has begun so far.

    And how many pixel locks that image holds.
    """

    since_s: float
    begun: int
    locks: int


class SharedPixels:
    """The memory that a worker and one decode process share: progress, then a slot an image."""

    def __init__(self, handle: int, preprocessing: Preprocessing) -> None:
        """Map the memory behind a handle, which may be closed afterwards."""
        self._shape_CHW = (_CHANNELS, preprocessing.height, preprocessing.width)
        self._memory = mmap.mmap(handle, shared_bytes(preprocessing))
        self._slots_SCHW = np.frombuffer(self._memory, np.uint8, offset=_HEADER_BYTES).reshape(
            (SLOTS, *self._shape_CHW)
        )

    def put(self, slot: int, pixels_CHW: Pixels) -> None:
        """Write the pixels of a slot."""
        self._slots_SCHW[slot] = pixels_CHW

    def take(self, slot: int) -> Pixels:
        """Return a copy of the pixels of a slot."""
        pixels_CHW: Pixels = self._slots_SCHW[slot].copy()
        return pixels_CHW

    def note(self, progress: Progress) -> None:
        """Say how far this process is."""
        _PROGRESS.pack_into(self._memory, 0, *progress)

    def progress(self) -> Progress:
        """Return how far the process is."""
        return Progress(*_PROGRESS.unpack_from(self._memory, 0))


def shared_bytes(preprocessing: Preprocessing) -> int:
    """Return how much memory a decode process shares with its worker."""
    return _HEADER_BYTES + SLOTS * _CHANNELS * preprocessing.height * preprocessing.width


def stored(data: bytes) -> int:
    """Return a handle of memory that holds the bytes: a decode process gets it, not a copy."""
    handle = os.memfd_create("wanwu-image")
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
    except OSError:
        os.close(handle)
        raise
    return handle
