"""JPEG 2000 bytes -> refused if they have too many boxes or packets. AVIF has boxes as well."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from worker.images.structure.limits import at_most

# Pillow takes a step in Python for each box of JPEG 2000.
MAX_BOXES: Final = 10_000
# OpenJPEG allocates for each precinct of each tile, and steps through all packets.
MAX_PACKETS: Final = 5_000_000

_TO_THE_END: Final = 0
_IS_LONG: Final = 1
_CODESTREAM: Final = b"\xff\x4f\xff\x51"
_COD, _SOT = 0x52, 0x90
_HAS_PRECINCTS: Final = 1
_LARGEST_PRECINCT: Final = 0xFF


class Box(NamedTuple):
    """Its name, and where its content begins and ends."""

    name: bytes
    begin: int
    end: int


def check_jpeg2000(data: bytes) -> None:
    """Refuse many boxes, and many packets: precincts by layers.

    Raises:
        TooComplexError: there are too many.
    """
    if data.startswith(_CODESTREAM):
        _check_codestream(data, 0)
        return
    for box in boxes(data, 0, len(data)):
        if box.name == b"jp2h":
            _check_header(data, box.begin, box.end)
        elif box.name == b"jp2c":
            _check_codestream(data, box.begin)
            return


def _check_header(data: bytes, begin: int, end: int) -> None:
    for box in boxes(data, begin, end):
        if box.name == b"res ":
            for _ in boxes(data, box.begin, box.end):
                pass


def _check_codestream(data: bytes, start: int) -> None:
    """Look at the main header: SIZ, COD and how many segments there are."""
    place = start + 2
    (width, height, left, top, tile_width, tile_height, tile_left, tile_top, components) = (
        struct.unpack_from(">IIIIIIIIH", data, place + 6)
    )
    # Of image and tiles alike, the first tile may begin before the image.
    across = -(-(width - tile_left) // max(tile_width, 1))
    down = -(-(height - tile_top) // max(tile_height, 1))
    size = min(width - left, tile_width), min(height - top, tile_height)
    for _ in range(MAX_BOXES):
        code, length = struct.unpack_from(">HH", data, place)
        code &= 0xFF
        if code == _SOT:
            return
        if code == _COD:
            packets = _packets(data, place + 4, *size) * across * down * components
            at_most(packets, MAX_PACKETS, "packets")
        place += 2 + length
    at_most(MAX_BOXES + 1, MAX_BOXES, "segments")


def _packets(data: bytes, place: int, width: int, height: int) -> int:
    """Return how many packets a component of a whole tile has, by the COD segment there."""
    style, _, layers, _, levels = struct.unpack_from(">BBHBB", data, place)
    precincts = 0
    for level in range(levels + 1):
        both = data[place + 10 + level] if style & _HAS_PRECINCTS else _LARGEST_PRECINCT
        # Of the levels, the first is the smallest.
        shift = levels - level
        across = -(-width >> (shift + (both & 15)))
        down = -(-height >> (shift + (both >> 4)))
        precincts += abs(across) * abs(down)
    return precincts * int(layers)


def boxes(data: bytes, place: int, end: int) -> Iterator[Box]:
    """Yield the boxes from `place` to `end`, as far as they can be followed.

    Raises:
        TooComplexError: there are too many.
    """
    for _ in range(MAX_BOXES):
        if place + 8 > end:
            return
        length, name = struct.unpack_from(">I4s", data, place)
        head = 8
        if length == _IS_LONG:
            (length,) = struct.unpack_from(">Q", data, place + 8)
            head = 16
        elif length == _TO_THE_END:
            length = end - place
        if length < head:
            return
        yield Box(name, place + head, min(place + length, end))
        place += length
    at_most(MAX_BOXES + 1, MAX_BOXES, "boxes")
