"""TIFF or EXIF bytes -> refused if a directory has too many entries, values, strips or tiles."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from worker.images.structure.limits import at_most

# Pillow takes a step in Python for each entry, some for each number, and many for each fraction. It
# passes over entries of no known type: where a damaged place leads into the pixels, most are.
MAX_ENTRIES: Final = 10_000
MAX_ALL_ENTRIES: Final = 100_000
MAX_NUMBERS: Final = 1_000_000
MAX_FRACTIONS: Final = 100_000
# A strip per row and colour of a large scan are 180,000.
MAX_PIECES: Final = 300_000
# Of all tiles together, which are decoded whole, however little of them the image shows.
MAX_TILED_PIXELS: Final = 1_000_000_000

_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 322, 323
_PIECES: Final = frozenset({273, 279, 324, 325})
# Directories inside: EXIF, GPS, interoperability.
_INSIDE: Final = frozenset({34_665, 34_853, 40_965})
_DEEPEST: Final = 2
_BIG: Final = 43
# Bytes of a value, by its type. Text and what is undefined is taken as it is.
_NUMBERS: Final[Mapping[int, int]] = {
    **dict.fromkeys((3, 8), 2),
    **dict.fromkeys((4, 9, 11, 13), 4),
    **dict.fromkeys((12, 16, 17, 18), 8),
    6: 1,
}
_FRACTIONS: Final = frozenset({5, 10})
_FRACTION_BYTES: Final = 8
_TYPES: Final = frozenset({1, 2, 7} | _NUMBERS.keys() | _FRACTIONS)
# Of a tile that is larger than its image: it is in memory whole.
MAX_TILE_PIXELS: Final = 4096 * 4096
_EXIF: Final = b"Exif\0\0"


def check_tiff(data: bytes) -> None:
    """Refuse a file whose first page is in too many pieces; no other is read.

    Raises:
        TooComplexError: it has too many strips, tiles, entries or values.
    """
    found = check_directory(data, 0)
    tile = found.get(_TILE_WIDTH, 0), found.get(_TILE_HEIGHT, 0)
    if all(tile):
        size = found.get(_WIDTH, 0), found.get(_HEIGHT, 0)
        most = max(2 * size[0] * size[1], MAX_TILE_PIXELS)
        at_most(tile[0] * tile[1], most, f"pixels in a tile of {size[0]} x {size[1]} pixels")
        pixels = -(-size[0] // tile[0]) * -(-size[1] // tile[1]) * tile[0] * tile[1]
        at_most(pixels, MAX_TILED_PIXELS, "pixels in its tiles")


def check_exif(data: bytes) -> None:
    """Check an EXIF block, whose prefix Pillow takes off up to two times.

    Raises:
        TooComplexError: there is too much in it.
    """
    place = 0
    for _ in range(2):
        place += len(_EXIF) * data.startswith(_EXIF, place)
    check_directory(data[place:], 0)


def check_directory(data: bytes, start: int) -> dict[int, int]:
    """Check the first directory behind the header at `start`, and those inside it.

    Return its tags of one whole number.

    Raises:
        TooComplexError: there is too much in them.
    """
    if data[start : start + 2] not in {b"II", b"MM"}:
        return {}
    order = "<" if data[start : start + 1] == b"I" else ">"
    is_big = _BIG in {data[start + 2], data[start + 3]}
    (place,) = struct.unpack_from(
        f"{order}{'Q' if is_big else 'I'}", data, start + 4 * (1 + is_big)
    )
    return _Directory(data, start, order, is_big=is_big).check(place, _DEEPEST)


class _Directory:
    """The directories of one header."""

    def __init__(self, data: bytes, start: int, order: str, *, is_big: bool) -> None:
        self._data = data
        self._start = start
        self._order = order
        self._number = "Q" if is_big else "I"
        self._entry = struct.Struct(f"{order}HH{self._number}{'8s' if is_big else '4s'}")

    def check(self, place: int, deeper: int) -> dict[int, int]:
        """Check the directory there; return its tags of one whole number."""
        count = self._unpack("Q" if self._number == "Q" else "H", place)
        begin = self._start + place + (8 if self._number == "Q" else 2)
        # Those that are not there are not read: a damaged EXIF block need not cost the image.
        count = min(count, max(0, (len(self._data) - begin) // self._entry.size))
        at_most(count, MAX_ALL_ENTRIES, "entries in a directory")
        numbers = fractions = known = 0
        found: dict[int, int] = {}
        for at in range(begin, begin + count * self._entry.size, self._entry.size):
            tag, kind, values, inline = self._entry.unpack_from(self._data, at)
            known += kind in _TYPES
            # Inside, such a tag means nothing.
            if tag in _PIECES and deeper == _DEEPEST:
                at_most(values, MAX_PIECES, "strips or tiles")
            elif kind in _FRACTIONS:
                fractions += values if values * _FRACTION_BYTES <= len(self._data) else 0
            elif kind in _NUMBERS:
                numbers += values if values * _NUMBERS[kind] <= len(self._data) else 0
            if values == 1 and kind in _WHOLE:
                (found[tag],) = struct.unpack_from(self._order + _WHOLE[kind], inline)
        at_most(known, MAX_ENTRIES, "entries in a directory")
        at_most(numbers, MAX_NUMBERS, "numbers in a directory")
        at_most(fractions, MAX_FRACTIONS, "fractions in a directory")
        if deeper:
            for tag in _INSIDE & found.keys():
                self._check_inside(found[tag], deeper - 1)
        return found

    def _check_inside(self, place: int, deeper: int) -> None:
        try:
            self.check(place, deeper)
        except (struct.error, OverflowError):
            # It lies outside the file: Pillow does not read it.
            return

    def _unpack(self, kind: str, place: int) -> int:
        (value,) = struct.unpack_from(self._order + kind, self._data, self._start + place)
        return int(value)


# How a single whole number lies in its entry, by its type.
_WHOLE: Final[Mapping[int, str]] = {3: "H", 4: "I", 13: "I"}
