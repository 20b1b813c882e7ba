"""JPEG bytes -> refused if it has too many segments before its image, or too many scans."""

from __future__ import annotations

import re
import struct
from typing import Final

from worker.images.structure.limits import at_most
from worker.images.structure.tiff import check_exif

# Pillow takes a step in Python for each of these. A file of 256 MiB has 4,096 full segments.
MAX_SEGMENTS: Final = 10_000
MAX_JUNK_BYTES: Final = 500_000
MAX_TABLE_BYTES: Final = 200_000
MAX_RESOURCES: Final = 100_000
# Each is added to those before by copying all of them.
MAX_EXIF_SEGMENTS: Final = 64
# Encoders make some ten scans; each goes over all pixels again.
MAX_SCANS: Final = 1000
MAX_SCANNED_PIXELS: Final = 20_000_000_000

_SOI_BYTES: Final = 2
_SOS, _EOI, _DQT, _APP1, _APP13 = 0xDA, 0xD9, 0xDB, 0xE1, 0xED
_ALL_COEFFICIENTS: Final = (0, 63)
_EXIF: Final = b"Exif\0\0"
_RESOURCE: Final = b"8BIM"
_FRAMES: Final = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_HAVE_LENGTH: Final = frozenset({*range(0xC0, 0xD0), *range(0xDA, 0xF0), 0xFE} - {0xC8})
_NOT_FILL: Final = re.compile(rb"[^\xff]")
_BEHIND_SCAN: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


class _Header:
    """What was found before the first scan."""

    def __init__(self) -> None:
        self.junk_bytes = 0
        self.segments = 0
        self.table_bytes = 0
        self.resources = 0
        self.exif = [_EXIF]
        self.pixels = 0
        self.components = 0

    def check(self) -> None:
        """Refuse what exceeds a limit."""
        at_most(self.segments, MAX_SEGMENTS, "segments")
        at_most(self.junk_bytes, MAX_JUNK_BYTES, "bytes between its segments")
        at_most(self.table_bytes, MAX_TABLE_BYTES, "bytes of quantization tables")
        at_most(self.resources, MAX_RESOURCES, "Photoshop resources")
        at_most(len(self.exif) - 1, MAX_EXIF_SEGMENTS, "EXIF segments")

    def add(self, data: bytes, code: int, begin: int, end: int) -> None:
        """Note a segment whose content lies there."""
        if code in _FRAMES and end - begin > 5:  # noqa: PLR2004 - depth, height, width, components
            height, width = struct.unpack_from(">HH", data, begin + 1)
            self.pixels, self.components = width * height, data[begin + 5]
        elif code == _DQT:
            self.table_bytes += end - begin
        elif code == _APP13:
            self.resources += data.count(_RESOURCE, begin, end)
        elif code == _APP1 and data.startswith(_EXIF, begin):
            self.exif.append(data[begin + len(_EXIF) : end])


def check_jpeg(data: bytes) -> None:
    """Refuse many segments, much that is none, and many scans over many pixels.

    Raises:
        TooComplexError: there are too many.
    """
    header, begin, end = _read_header(data)
    # What is too long for a segment goes on in the next.
    check_exif(b"".join(header.exif))
    # Else there is one scan, and what lies behind it is not decoded.
    if _is_one_of_many(header, data, begin):
        _check_scans(data, end, header.pixels)


def has_many_scans(data: bytes) -> bool:
    """Whether all of a JPEG is in memory while it is decoded, however small it is to become."""
    try:
        header, begin, _ = _read_header(data)
        return _is_one_of_many(header, data, begin)
    except (struct.error, IndexError):
        return False


def _read_header(data: bytes) -> tuple[_Header, int, int]:
    """Return what lies before the first scan, and where the header of that begins and ends."""
    header, place = _Header(), _SOI_BYTES
    while True:
        code, after = _next_marker(data, place)
        header.junk_bytes += after - place - 2
        header.segments += 1
        header.check()
        if code in _HAVE_LENGTH:
            begin = after + 2
            end = after + int(struct.unpack_from(">H", data, after)[0])
            if code == _SOS:
                return header, begin, end
            header.add(data, code, begin, end)
            place = end
        else:
            place = after


def _is_one_of_many(header: _Header, data: bytes, begin: int) -> bool:
    """Whether the first scan has not all components, or not all coefficients of its blocks."""
    return data[begin] < header.components or _is_partial(data, begin)


def _next_marker(data: bytes, place: int) -> tuple[int, int]:
    """Return the code of the next marker, and where its segment begins.

    Raises:
        IndexError: there is none.
        TooComplexError: there is none, and a decoder would look for it for long.
    """
    begin = data.find(b"\xff", place)
    found = _NOT_FILL.search(data, begin) if begin >= 0 else None
    if found is None:
        at_most(len(data) - place, MAX_JUNK_BYTES, "bytes behind its last segment")
        raise IndexError
    return data[found.start()], found.end()


def _is_partial(data: bytes, begin: int) -> bool:
    """Whether the scan whose header lies there has not all coefficients of its blocks."""
    place = begin + 1 + 2 * data[begin]
    return (data[place], data[place + 1]) != _ALL_COEFFICIENTS


def _check_scans(data: bytes, place: int, pixels: int) -> None:
    most = min(MAX_SCANS, MAX_SCANNED_PIXELS // max(pixels, 1))
    # The quick look may count what is none: what follows the image, or lies in a segment.
    if data.count(b"\xff\xda", place) < most:
        return
    scans = 1
    for _ in range(2 * MAX_SCANS + MAX_SEGMENTS):
        found = _BEHIND_SCAN.search(data, place)
        if found is None or data[found.end() - 1] == _EOI:
            return
        place = found.end()
        if data[place - 1] in _HAVE_LENGTH:
            scans += data[place - 1] == _SOS
            at_most(scans, most, f"scans of {pixels:,} pixels")
            place += int(struct.unpack_from(">H", data, place)[0])
    at_most(2 * MAX_SCANS + MAX_SEGMENTS, MAX_SEGMENTS, "segments")
