"""PSD bytes -> refused if it has too many resources or rows. Its layers are not read."""

from __future__ import annotations

import struct
from typing import Final

from worker.images.structure.limits import at_most

# Pillow takes some steps in Python for each.
MAX_RESOURCES: Final = 10_000
# A PSD may have 30,000, its larger variant 300,000.
MAX_ROWS: Final = 300_000

_HEADER_BYTES: Final = 26


def check_psd(data: bytes) -> None:
    """Refuse many resources, and more rows than a PSD can have.

    Raises:
        TooComplexError: there are too many.
    """
    (rows,) = struct.unpack_from(">I", data, 14)
    at_most(rows, MAX_ROWS, "rows")
    place = _HEADER_BYTES + 4 + _length(data, _HEADER_BYTES)
    end = place + 4 + _length(data, place)
    place, resources = place + 4, 0
    while place < end:
        # Signature, number, name, data: the latter two of even length.
        place += 6
        place += (data[place] + 2) & ~1
        place += 4 + (_length(data, place) + 1 & ~1)
        resources += 1
        at_most(resources, MAX_RESOURCES, "resources")


def _length(data: bytes, place: int) -> int:
    return int(struct.unpack_from(">I", data, place)[0])
