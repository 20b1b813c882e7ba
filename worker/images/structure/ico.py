"""ICO bytes -> refused if it has too many icons, or the one that is read is too large."""

from __future__ import annotations

import struct
from math import ceil, log2
from typing import Final

from worker.images.structure.limits import at_most
from worker.images.structure.png import check_png

MAX_ICONS: Final = 1000
# Pillow decodes it while it reads the header: of 256 pixels a side, by the format.
MAX_ICON_PIXELS: Final = 4096 * 4096

_ENTRY: Final = struct.Struct("<BBBxxxHII")
_HEADER_BYTES: Final = 6
_LARGEST_SIDE: Final = 256
_MOST_BITS: Final = 256
_PNG: Final = b"\x89PNG\r\n\x1a\n"


def check_ico(data: bytes) -> None:
    """Refuse many icons, and one that is no icon by its size.

    Raises:
        TooComplexError: there are too many icons, pixels or chunks.
    """
    (count,) = struct.unpack_from("<H", data, 4)
    at_most(count, MAX_ICONS, "icons")
    entries = [_ENTRY.unpack_from(data, _HEADER_BYTES + 16 * one) for one in range(count)]
    if not entries:
        return
    place = min(entries, key=_rank)[-1]
    if data.startswith(_PNG, place):
        width, height = struct.unpack_from(">II", data, place + 16)
        at_most(width * height, MAX_ICON_PIXELS, "pixels in an icon")
        check_png(data, place)
    else:
        width, height = struct.unpack_from("<II", data, place + 4)
        # Its mask lies below it.
        at_most(width * height // 2, MAX_ICON_PIXELS, "pixels in an icon")


def _rank(entry: tuple[int, ...]) -> tuple[int, int]:
    """Order icons as Pillow does: the largest is read, and of those the one of fewest bits."""
    width, height, colours, bits, *_ = entry
    depth = bits or (ceil(log2(colours)) if colours else 0) or _MOST_BITS
    return -(width or _LARGEST_SIDE) * (height or _LARGEST_SIDE), depth
