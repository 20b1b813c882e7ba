"""PPM bytes -> refused if its header is long: comments and blanks."""

from __future__ import annotations

import re
from typing import Final

from worker.images.structure.limits import at_most

# Pillow reads a header byte by byte, in Python.
MAX_HEADER_BYTES: Final = 1_000_000
MAX_COMMENTS: Final = 10_000

# Width, height and the largest value; what follows them is data.
_NUMBERS: Final = 3
_BLANKS: Final = re.compile(rb"[\t-\r ]*")
_COMMENT: Final = re.compile(rb"[^\r\n]*")
_NUMBER: Final = re.compile(rb"[^\t-\r #]+")


def check_ppm(data: bytes) -> None:
    """Refuse a long header.

    Raises:
        TooComplexError: it is too long.
    """
    place, numbers, comments = 2, 0, 0
    while numbers < _NUMBERS and place < len(data):
        place = _end(_BLANKS, data, place)
        if data[place : place + 1] == b"#":
            place = _end(_COMMENT, data, place)
            comments += 1
        else:
            place = _end(_NUMBER, data, place)
            # Of bitmaps the third is data.
            numbers += 1
        at_most(comments, MAX_COMMENTS, "comments before its data")
        if numbers < _NUMBERS:
            at_most(place, MAX_HEADER_BYTES, "bytes before its data")


def _end(pattern: re.Pattern[bytes], data: bytes, place: int) -> int:
    found = pattern.match(data, place)
    return found.end() if found else place + 1
