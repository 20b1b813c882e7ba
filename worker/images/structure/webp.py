"""WebP bytes -> refused if its EXIF block is made to take long. libwebp bounds all else."""

from __future__ import annotations

import struct
from typing import Final

from worker.images.structure.limits import at_most
from worker.images.structure.tiff import check_exif

# An animation of 5,000 frames has 5,002.
MAX_CHUNKS: Final = 100_000

_FIRST_CHUNK: Final = 12
_FLAGS: Final = 20
_HAS_EXIF: Final = 8


def check_webp(data: bytes) -> None:
    """Look for the EXIF block and check it.

    Raises:
        TooComplexError: there is too much in it, or too much before it.
    """
    if data[_FIRST_CHUNK : _FIRST_CHUNK + 4] != b"VP8X" or not data[_FLAGS] & _HAS_EXIF:
        return
    place, chunks = _FIRST_CHUNK, 0
    while True:
        name, length = struct.unpack_from("<4sI", data, place)
        if name == b"EXIF":
            check_exif(data[place + 8 : place + 8 + length])
            return
        chunks += 1
        at_most(chunks, MAX_CHUNKS, "chunks")
        place += 8 + length + length % 2
