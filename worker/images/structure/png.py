"""PNG bytes -> refused if it has too many chunks, or an EXIF block that is made to take long."""

from __future__ import annotations

import struct
from typing import Final

from worker.images.structure.limits import at_most
from worker.images.structure.tiff import check_exif

# Pillow takes a step in Python for each. 100 MB in IDAT chunks of 8 KiB are 12,800.
MAX_CHUNKS: Final = 200_000
# Of an EXIF block as text. Those that are deflated have a limit of Pillow's, which is the same.
MAX_EXIF_TEXT_BYTES: Final = 1_048_576

_MAGIC_BYTES: Final = 8
# A length and a name before it, a checksum behind it.
_FRAME_BYTES: Final = 12
_TEXTS: Final = frozenset({b"tEXt", b"iTXt"})
_EXIF_TEXTS: Final = (b"exif\0", b"Raw profile type exif\0")
_HEAD: Final = struct.Struct(">I4s")


def check_png(data: bytes, place: int = 0) -> None:
    """Refuse many chunks, and much EXIF; the file begins at `place`.

    Raises:
        TooComplexError: there are too many.
    """
    place += _MAGIC_BYTES
    chunks, end, head = 0, len(data) - _FRAME_BYTES, _HEAD.unpack_from
    while place <= end:
        length, name = head(data, place)
        # Pillow stops at a name that is none, as in a file whose end is all zeros.
        if name == b"IEND" or 0 in name:
            return
        if name == b"eXIf":
            check_exif(data[place + 8 : place + 8 + length])
        elif name in _TEXTS and data.startswith(_EXIF_TEXTS, place + 8):
            at_most(length, MAX_EXIF_TEXT_BYTES, "bytes of EXIF as text")
        chunks += 1
        if chunks > MAX_CHUNKS:
            at_most(chunks, MAX_CHUNKS, "chunks")
        place += length + _FRAME_BYTES
