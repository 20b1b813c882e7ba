"""PNG bytes -> refused if it has too many chunks."""

from __future__ import annotations

import struct
from typing import Final

from worker.images.structure.limits import at_most
from worker.images.structure.tiff import check_directory

# Pillow takes a step in Python for each. 100 MB in IDAT chunks of 8 KiB are 12,800.
MAX_CHUNKS: Final = 200_000

_MAGIC_BYTES: Final = 8
# A length and a name before it, a checksum behind it.
_FRAME_BYTES: Final = 12
_HEAD: Final = struct.Struct(">I4s")


def check_png(data: bytes, place: int = 0) -> None:
    """Refuse many chunks; the file begins at `place`.

    Raises:
        TooComplexError: there are too many.
    """
    place += _MAGIC_BYTES
    chunks, end, head = 0, len(data) - _FRAME_BYTES, _HEAD.unpack_from
    while place <= end:
        length, name = head(data, place)
        if name == b"IEND":
            return
        if name == b"eXIf":
            check_directory(data[place + 8 : place + 8 + length], 0)
        chunks += 1
        if chunks > MAX_CHUNKS:
            at_most(chunks, MAX_CHUNKS, "chunks")
        place += length + _FRAME_BYTES
