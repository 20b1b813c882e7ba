"""Bytes -> refused if their structure is made to take long; looked at before a decoder sees it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Final

from worker.images.structure.avif import check_avif
from worker.images.structure.boxes import check_jpeg2000
from worker.images.structure.gif import check_gif
from worker.images.structure.ico import check_ico
from worker.images.structure.jpeg import check_jpeg
from worker.images.structure.png import check_png
from worker.images.structure.ppm import check_ppm
from worker.images.structure.psd import check_psd
from worker.images.structure.tiff import check_tiff
from worker.images.structure.webp import check_webp

# BMP has a header of one size, and its palette is bounded by Pillow.
_CHECKS: Final[Mapping[str, Callable[[bytes], None]]] = {
    "AVIF": check_avif,
    "GIF": check_gif,
    "ICO": check_ico,
    "JPEG": check_jpeg,
    "JPEG2000": check_jpeg2000,
    "PNG": check_png,
    "PPM": check_ppm,
    "PSD": check_psd,
    "TIFF": check_tiff,
    "WEBP": check_webp,
}


def check_structure(data: bytes, name: str) -> None:
    """Refuse a file of more scans, strips, tiles, chunks or markers than sound ones have.

    `name` is Pillow's name of the format. Nothing is decoded and nothing large is copied; the work
    is bounded by the limits. What is broken is left to the decoder, which says in what way.

    Raises:
        TooComplexError: it would take long, whatever its number of pixels.
    """
    check = _CHECKS.get(name)
    if check is None:
        return
    try:
        check(data)
    except (struct.error, LookupError, OverflowError):
        # It ends in the middle of what is looked at, or a place lies beyond all files.
        return
