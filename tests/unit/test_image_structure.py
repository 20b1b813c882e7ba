"""Files of too many pieces are refused before they are decoded; the largest sound ones are not."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache

import pytest
from bomb_containers import containers
from bomb_parts import LONG, SHORT, chunk, encoded, grey_tags, png, segment, tiff, zeros
from bomb_rasters import rasters
from PIL import Image

from worker.contract.settings import IMAGE_FORMATS
from worker.errors import TooComplexError
from worker.images.structure import check_structure

# Of those that would take a decoder long; all others are bounded by pixels, memory or Pillow.
REFUSED = {
    *("jpeg-junk", "jpeg-fill-bytes", "jpeg-restarts-in-header", "jpeg-comments", "jpeg-tables"),
    *("jpeg-scans-large", "jpeg-scans-large-hidden", "jpeg-scans-small"),
    *("jpeg-scans-small-hidden", "jpeg-exif-segments", "jpeg-photoshop"),
    *("png-empty-idat", "png-private-chunks", "png-chunks-behind", "png-texts", "png-frames"),
    *("png-exif-fractions", "png-exif-prefix", "png-text-4", "png-text-21"),
    *("webp-exif-fractions", "webp-exif-prefix", "jpeg-exif-split", "avif-exif", "jpeg-zeros"),
    *("gif-comment", "gif-extensions", "gif-application"),
    *("tiff-strips-raw", "tiff-strips-packbits", "tiff-strips-deflate", "tiff-strips-jpeg"),
    *("tiff-tiles", "tiff-tiles-larger", "tiff-tile-large", "tiff-entries", "tiff-entries-various"),
    *("tiff-resolution", "tiff-turned", "tiff-orientation", "tiff-exif"),
    *("avif-boxes", "avif-items", "avif-places", "avif-properties", "avif-references"),
    *("jp2-precincts", "jp2-layers-precincts", "jp2-tiles-more", "jp2-comments", "j2k-comments"),
    *("jp2-boxes", "jp2-header-boxes"),
    *("ppm-comment", "ppm-comments", "ppm-blanks", "ppm-digits"),
    *("ico-entries", "ico-chunks", "ico-empty-idat", "ico-large", "ico-bitmap"),
    *("psd-resources", "psd-rows"),
}


def is_refused(data: bytes) -> bool:
    Image.init()
    prefix = data[:16].ljust(16, b"\0")
    try:
        for name in IMAGE_FORMATS:
            accept = Image.OPEN[name][1]
            if accept is not None and accept(prefix) is True:
                check_structure(data, name)
    except TooComplexError:
        return True
    return False


@cache
def bombs() -> dict[str, bytes]:
    return {name.partition(".")[0]: data for name, data in (*rasters(), *containers())}


def test_there_are_many_kinds_of_bombs_and_all_are_small() -> None:
    assert len(bombs()) >= 100
    assert max(map(len, bombs().values())) < 20_000_000


def test_what_would_take_long_is_refused_by_its_structure() -> None:
    assert {name for name, data in bombs().items() if is_refused(data)} == REFUSED


@cache
def sound() -> list[tuple[str, bytes]]:
    return list(largest())


def largest() -> Iterator[tuple[str, bytes]]:
    rows = 180_000
    places = struct.pack("<I", 8) * rows + struct.pack("<I", 1) * rows
    strips = [(273, LONG, rows, 8), (278, SHORT, 1, 1), (279, LONG, rows, 8 + 4 * rows)]
    yield "TIFF", tiff(grey_tags(1, rows) + strips, places)
    yield (
        "PNG",
        png((64, 64), chunk(b"IDAT", zeros(65 * 64)) + chunk(b"IDAT", bytes(8192)) * 12_800),
    )
    frames = [Image.new("P", (8, 8), number % 250) for number in range(5000)]
    yield "GIF", encoded("GIF", "P", save_all=True, append_images=frames)
    jpeg = encoded("JPEG")
    profile = b"".join(segment(0xE2, b"ICC_PROFILE\0" + bytes(65_000)) for _ in range(255))
    yield "JPEG", jpeg[:2] + profile + jpeg[2:]
    yield "JPEG", encoded("JPEG", size=(4000, 3000), progressive=True)
    # A film behind the image, as telephones append it.
    yield "JPEG", encoded("JPEG", progressive=True) + b"\xff\xda\0\2" * 50_000
    for name in ("AVIF", "WEBP", "BMP", "JPEG2000", "PPM", "ICO", "TIFF", "PNG", "GIF"):
        yield name, encoded(name)


def test_sound_files_are_let_through() -> None:
    for name, data in sound():
        check_structure(data, name)


def test_what_ends_too_early_is_left_to_the_decoder() -> None:
    for name, data in sound():
        for length in (2, 9, 13, 21, 40, 100, len(data) // 2):
            check_structure(data[:length], name)


def test_a_png_whose_end_is_all_zeros_is_damaged_and_not_too_complex() -> None:
    check_structure(encoded("PNG")[:60] + bytes(5_000_000), "PNG")


def test_the_reason_names_the_count_and_the_limit() -> None:
    with pytest.raises(TooComplexError, match=r"2,000,000 strips or tiles.* limit is 300,000"):
        check_structure(bombs()["tiff-strips-raw"], "TIFF")
