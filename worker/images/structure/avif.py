"""AVIF bytes -> refused if it has too many boxes or items, or EXIF that is made to take long."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from worker.images.structure.boxes import Box, boxes
from worker.images.structure.limits import at_most
from worker.images.structure.tiff import check_exif

# libavif looks for each among all others. A panorama of a telephone has some hundred.
MAX_ITEMS: Final = 20_000
MAX_LINK_BYTES: Final = 200_000

# Version and flags of a box that has them.
_FULL_BYTES: Final = 4
# By version of the box, where its number of entries lies and how it is stored.
_COUNTS: Final = {b"iinf": ("H", "I", "I"), b"ipma": ("I", "I", "I"), b"iloc": ("H", "H", "I")}
# Of an item's entry, by version: its number, how it is protected, its type.
_ENTRIES: Final = {2: ">HH4s", 3: ">IH4s"}
_NUMBERS: Final = {0: "", 4: "I", 8: "Q"}
# Before the block itself an item has the place where it begins.
_EXIF_START_BYTES: Final = 4
_WITHIN_FILE, _WITHIN_BOX = 0, 1


def check_avif(data: bytes) -> None:
    """Refuse many boxes, many items, properties and links of the image, and much EXIF.

    Raises:
        TooComplexError: there are too many.
    """
    for box in boxes(data, 0, len(data)):
        if box.name == b"meta":
            _check_items(data, box.begin + _FULL_BYTES, box.end)
            inner = {one.name: one for one in boxes(data, box.begin + _FULL_BYTES, box.end)}
            for block in _exif_blocks(data, inner):
                check_exif(block)
            return


def _check_items(data: bytes, begin: int, end: int) -> None:
    for box in boxes(data, begin, end):
        if box.name == b"iprp":
            _check_items(data, box.begin, box.end)
        elif box.name == b"ipco":
            for _ in boxes(data, box.begin, box.end):
                pass
        elif box.name == b"iref":
            at_most(box.end - box.begin, MAX_LINK_BYTES, "bytes of links between its items")
        elif box.name in _COUNTS:
            at_most(_count(data, box)[0], MAX_ITEMS, "items")


def _count(data: bytes, box: Box) -> tuple[int, int]:
    """Return how many entries a box has, and where the first begins."""
    kinds = _COUNTS[box.name]
    kind = kinds[min(data[box.begin], len(kinds) - 1)]
    # The places have a field of their own between.
    place = box.begin + _FULL_BYTES + 2 * (box.name == b"iloc")
    (count,) = struct.unpack_from(f">{kind}", data, place)
    return count, place + struct.calcsize(kind)


def _exif_blocks(data: bytes, inner: dict[bytes, Box]) -> Iterator[bytes]:
    """Yield the EXIF blocks of the boxes inside `meta`."""
    if b"iinf" not in inner or b"iloc" not in inner:
        return
    numbers = set(_exif_numbers(data, inner[b"iinf"]))
    if not numbers:
        return
    idat = inner.get(b"idat")
    for number, method, extents in _places(data, inner[b"iloc"]):
        if number not in numbers or method not in {_WITHIN_FILE, _WITHIN_BOX}:
            continue
        start = idat.begin if idat and method == _WITHIN_BOX else 0
        # Pieces of a sound one do not lie over each other.
        at_most(sum(length for _, length in extents), len(data), "bytes of EXIF")
        pieces = (data[start + at : start + at + length] for at, length in extents)
        yield b"".join(pieces)[_EXIF_START_BYTES:]


def _exif_numbers(data: bytes, iinf: Box) -> Iterator[int]:
    """Yield the numbers of the items that are EXIF blocks."""
    _, place = _count(data, iinf)
    for box in boxes(data, place, iinf.end):
        layout = _ENTRIES.get(data[box.begin])
        if box.name == b"infe" and layout:
            number, _, kind = struct.unpack_from(layout, data, box.begin + _FULL_BYTES)
            if kind == b"Exif":
                yield number


def _places(data: bytes, iloc: Box) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """Yield of each item its number, what its places count from, and its places and lengths."""
    version = data[iloc.begin]
    sizes, more = data[iloc.begin + _FULL_BYTES], data[iloc.begin + _FULL_BYTES + 1]
    base = _NUMBERS[more >> 4]
    item = struct.Struct(f">{'HI'[version > 1]}{'H' if version else ''}xx{base}H")
    index = _NUMBERS[more & 15] if version else ""
    extent = struct.Struct(f">{index}{_NUMBERS[sizes >> 4]}{_NUMBERS[sizes & 15]}")
    count, place = _count(data, iloc)
    for _ in range(count):
        number, *rest, extents = item.unpack_from(data, place)
        method = rest[0] & 15 if version else _WITHIN_FILE
        offset = rest[-1] if base else 0
        place += item.size
        end = place + extents * extent.size
        yield number, method, _extents(data[place:end], extent, offset, sizes)
        place = end


def _extents(data: bytes, extent: struct.Struct, offset: int, sizes: int) -> list[tuple[int, int]]:
    """Return places and lengths of an item's pieces, if they say how long they are."""
    if not sizes & 15:
        return []
    return [(offset + (one[-2] if sizes >> 4 else 0), one[-1]) for one in extent.iter_unpack(data)]
