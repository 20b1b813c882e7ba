"""Bombs of TIFF, AVIF, JPEG 2000, BMP, PPM, ICO and PSD: small files that are much work."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from bomb_parts import (
    LONG,
    RATIONAL,
    SHORT,
    box,
    chunk,
    codestream,
    encoded,
    grey_tags,
    ifd,
    jp2,
    png,
    segment,
    tiff,
    zeros,
)

# Of a format's smallest piece; well above what is allowed.
MANY: Final = 300_000
_BYTES: Final = 4_000_000
_LARGE: Final = 14_000


def containers() -> Iterator[tuple[str, bytes]]:
    """Yield the name of each bomb's file, and its bytes."""
    yield from _tiff_pieces()
    yield from _tiff_directories()
    yield from _avif()
    yield from _jpeg2000()
    yield from _bmp()
    yield from _ppm()
    yield from _ico()
    yield from _psd()


def _tiff_pieces() -> Iterator[tuple[str, bytes]]:
    count = 2_000_000
    body = struct.pack("<H", 8) * count + struct.pack("<H", 1) * count
    strips = [(273, SHORT, count, 8), (278, LONG, 1, 1), (279, SHORT, count, 8 + 2 * count)]
    for name, kind in (("raw", 1), ("packbits", 32_773), ("deflate", 8), ("jpeg", 7)):
        yield f"tiff-strips-{name}.tif", tiff(grey_tags(1, count, kind) + strips, body)
    tiles = [(324, SHORT, count, 8), (325, SHORT, count, 8 + 2 * count)]
    small = [(322, LONG, 1, 1), (323, LONG, 1, 1), *tiles]
    yield "tiff-tiles.tif", tiff(grey_tags(2000, 1000) + small, body)
    data = zeros(16_384 * 4096)
    count = 10_000
    body = data + struct.pack("<I", 8) * count + struct.pack("<I", len(data)) * count
    places = [(324, LONG, count, 8 + len(data)), (325, LONG, count, 8 + len(data) + 4 * count)]
    large = [(322, LONG, 1, 16_384), (323, LONG, 1, 4096), *places]
    yield "tiff-tiles-larger.tif", tiff(grey_tags(1, 4096 * count, 8) + large, body)
    one_pixel = [*grey_tags(1, 1, 8), (324, LONG, 1, 8), (325, LONG, 1, len(data))]
    tile = [(322, LONG, 1, 40_000), (323, LONG, 1, 50_000)]
    yield "tiff-tile-large.tif", tiff(one_pixel + tile, data)
    data = zeros(_LARGE * _LARGE)
    one = [(273, LONG, 1, 8), (278, LONG, 1, _LARGE), (279, LONG, 1, len(data))]
    yield "tiff-large.tif", tiff(grey_tags(_LARGE, _LARGE, 8) + one, data)
    turned = [(274, SHORT, 1, 6)]
    yield "tiff-large-turned.tif", tiff(grey_tags(_LARGE, _LARGE, 8) + one + turned, data)
    yield "tiff-beyond.tif", tiff(grey_tags(2**31, 2**31, 8) + one, data)


def _tiff_directories() -> Iterator[tuple[str, bytes]]:
    pixel = [(273, LONG, 1, 8), (278, LONG, 1, 1), (279, LONG, 1, 1)]
    base = grey_tags(1, 1) + pixel
    entry = struct.pack("<HHQQ", 256, LONG, 1, 1)
    header = b"II+\0\10\0\0\0" + struct.pack("<QQ", 16, MANY)
    yield "tiff-entries.tif", header + entry * MANY + bytes(8)
    various = b"".join(struct.pack("<HHII", tag, SHORT, 1, 1) for tag in range(65_535))
    yield "tiff-entries-various.tif", b"II*\0\10\0\0\0\xff\xff" + various + bytes(4)
    count = _BYTES // 8
    fractions = b"\1\0\0\0" * (2 * count)
    for name, tag in (("resolution", 0x11A), ("turned", 65_000), ("orientation", 274)):
        more = [(tag, RATIONAL, count, 8), *([(274, SHORT, 1, 6)] if name == "turned" else [])]
        yield f"tiff-{name}.tif", tiff(base + more, fractions)
    inner = ifd([(0x829A, RATIONAL, count - 100, 8)])
    body = fractions + inner
    yield "tiff-exif.tif", tiff([*base, (34_665, LONG, 1, 8 + len(fractions))], body)
    # A directory that is its own EXIF, its own successor, and lies at byte 8.
    own = [*base, (34_665, LONG, 1, 8), (34_853, LONG, 1, 8), (330, LONG, 1, 8)]
    yield "tiff-loop.tif", tiff(own, next_ifd=8)
    pages, place = [], 8
    for _ in range(MANY // 10):
        page = ifd([*base], 0)
        place += len(page)
        pages.append(page[:-4] + struct.pack("<I", place))
    yield "tiff-pages.tif", b"II*\0\10\0\0\0" + b"".join(pages) + ifd(base)


def _avif() -> Iterator[tuple[str, bytes]]:
    sound = encoded("AVIF")
    start = struct.unpack_from(">I", sound)[0]
    head, rest = sound[:start], sound[start:]
    yield "avif-boxes.avif", head + box(b"free") * MANY + rest
    hdlr = box(b"hdlr", bytes(8) + b"pict" + bytes(13))
    pitm = box(b"pitm", struct.pack(">IH", 0, 1))
    items = b"".join(
        box(b"infe", struct.pack(">IIH4sB", 3 << 24, number, 0, b"av01", 0))
        for number in range(1, MANY)
    )
    iinf = box(b"iinf", struct.pack(">II", 1 << 24, MANY - 1) + items)
    yield "avif-items.avif", head + box(b"meta", bytes(4) + hdlr + pitm + iinf)
    places = struct.pack(">IBBI", 2 << 24, 0x44, 0, MANY)
    places += b"".join(struct.pack(">IHHHII", n, 0, 0, 1, 0, 8) for n in range(1, MANY + 1))
    yield "avif-places.avif", head + box(b"meta", bytes(4) + hdlr + pitm + box(b"iloc", places))
    # One item of as many extents as can be, which all are the whole file.
    extents = struct.pack(">II", 0, _BYTES) * 65_535
    place = struct.pack(">IBBHHHH", 0, 0x44, 0, 1, 1, 0, 65_535) + extents
    one = box(
        b"iinf",
        struct.pack(">IH", 0, 1) + box(b"infe", struct.pack(">IHH4sB", 2 << 24, 1, 0, b"av01", 0)),
    )
    inner = hdlr + pitm + box(b"iloc", place) + one
    yield "avif-extents.avif", head + box(b"meta", bytes(4) + inner) + bytes(_BYTES)
    properties = box(b"ipco", box(b"ispe", struct.pack(">III", 0, 64, 64)) * MANY)
    inner = hdlr + pitm + one + box(b"iprp", properties)
    yield "avif-properties.avif", head + box(b"meta", bytes(4) + inner)
    links = b"".join(box(b"dimg", struct.pack(">HHH", 1, 1, 1)) for _ in range(MANY))
    inner = hdlr + pitm + one + box(b"iref", bytes(4) + links)
    yield "avif-references.avif", head + box(b"meta", bytes(4) + inner)
    deep = b""
    for _ in range(2000):
        deep = box(b"meta", bytes(4) + hdlr + deep)
    yield "avif-nested.avif", head + deep
    count = _BYTES // 8
    tagged = encoded("AVIF", exif=tiff([(65_000, RATIONAL, count, 8)], b"\1\0\0\0" * (2 * count)))
    # The encoder does not take such an orientation, nor need it.
    entry, lie = (struct.pack("<HHI", tag, RATIONAL, count) for tag in (65_000, 274))
    yield "avif-exif.avif", tagged.replace(entry, lie)
    at = sound.index(b"ispe") + 8
    yield "avif-wide.avif", sound[:at] + struct.pack(">II", 16_000, 12_000) + sound[at + 8 :]


def _jpeg2000() -> Iterator[tuple[str, bytes]]:
    size = (_LARGE, _LARGE)
    yield "jp2-tiles.jp2", jp2(codestream(size, (55, 55)), size)
    yield "jp2-tiles-more.jp2", jp2(codestream(size, (1, 1)), size)
    yield "jp2-precincts.jp2", jp2(codestream(size, size, levels=5, precinct=0x11), size)
    yield "jp2-precincts-small.jp2", jp2(codestream(size, size, levels=5, precinct=0x55), size)
    yield "jp2-layers.jp2", jp2(codestream(size, size, layers=65_535, levels=32), size)
    both = codestream((4096, 4096), (4096, 4096), layers=65_535, levels=5, precinct=0x66)
    yield "jp2-layers-precincts.jp2", jp2(both, (4096, 4096))
    many = codestream((64, 64), (64, 64), components=10_000)
    yield "jp2-components.jp2", jp2(many, (64, 64), components=3)
    comments = codestream((64, 64), (64, 64), extra=segment(0x64, b"") * MANY)
    yield "jp2-comments.jp2", jp2(comments, (64, 64))
    yield "j2k-comments.j2k", comments
    stream = codestream((64, 64), (64, 64))
    yield "jp2-boxes.jp2", jp2(stream, (64, 64), extra=box(b"free") * MANY)
    sound = jp2(stream, (64, 64))
    place = sound.index(b"jp2h")
    inner = box(b"free") * MANY
    length = struct.unpack_from(">I", sound, place - 4)[0] + len(inner)
    yield (
        "jp2-header-boxes.jp2",
        (sound[: place - 4] + struct.pack(">I", length) + b"jp2h" + inner + sound[place + 4 :]),
    )
    yield "jp2-large.jp2", jp2(codestream(size, size), size)


def _bmp() -> Iterator[tuple[str, bytes]]:
    rows = b"\1\1\0\0" * 20 + b"\0\1"
    for name, width, height, bits, packed, colours in (
        ("rows", 10_000_000, 20, 8, 1, 256),
        ("palette", 64, 64, 8, 0, 2**32 - 1),
        ("wide", 100_000_000, 2, 1, 0, 2),
        ("beyond", 2**31 - 1, 2**31 - 1, 24, 0, 0),
    ):
        sizes = (40, width, height, 1, bits, packed, len(rows), 0, 0, colours, 0)
        header = struct.pack("<IIIHHIIiiII", *sizes) + bytes(1024)
        start = 14 + len(header)
        head = b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start)
        yield f"bmp-{name}.bmp", head + header + rows


def _ppm() -> Iterator[tuple[str, bytes]]:
    pixels = bytes(300)
    yield "ppm-comment.ppm", b"P6\n#" + b"x" * _BYTES + b"\n10 10\n255\n" + pixels
    yield "ppm-comments.ppm", b"P6\n" + b"#\n" * (_BYTES // 2) + b"10 10\n255\n" + pixels
    yield "ppm-blanks.ppm", b"P6\n" + b" " * _BYTES + b"10 10\n255\n" + pixels
    yield "ppm-digits.ppm", b"P6\n" + b"1" * _BYTES + b"10 10\n255\n" + pixels
    yield "ppm-text.ppm", b"P3\n10 10\n255\n" + b"#\n" * (_BYTES // 2) + b"0 " * 300
    yield "ppm-wide.ppm", b"P6\n60000 3000\n255\n" + pixels


def _ico() -> Iterator[tuple[str, bytes]]:
    def icon(entries: int, body: bytes) -> bytes:
        entry = struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(body), 6 + 16 * entries)
        return struct.pack("<HHH", 0, 1, entries) + entry * entries + body

    data = chunk(b"IDAT", zeros(65 * 64))
    yield "ico-entries.ico", icon(65_535, png((64, 64), data))
    yield "ico-chunks.ico", icon(1, png((64, 64), data, before=chunk(b"abCd") * MANY))
    yield "ico-empty-idat.ico", icon(1, png((64, 64), chunk(b"IDAT") * MANY + data))
    grey = chunk(b"IDAT", zeros((_LARGE + 1) * _LARGE))
    yield "ico-large.ico", icon(1, png((_LARGE, _LARGE), grey))
    header = struct.pack("<IiiHHIIiiII", 40, 20_000, 20_000, 1, 32, 0, 0, 0, 0, 0, 0)
    yield "ico-bitmap.ico", icon(1, header + bytes(100))


def _psd() -> Iterator[tuple[str, bytes]]:
    def psd(size: tuple[int, int], resources: bytes, layers: bytes, data: bytes) -> bytes:
        header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 1, size[1], size[0], 8, 1)
        parts = (b"", resources, layers)
        return header + b"".join(struct.pack(">I", len(one)) + one for one in parts) + data

    raw = b"\0\0" + bytes(64 * 64)
    yield "psd-resources.psd", psd((64, 64), b"8BIM\4\1\0\0\0\0\0\0" * MANY, b"", raw)
    layer = bytes(16) + b"\0\1\0\0\0\0\0\0" + b"8BIMnorm" + bytes(4) + bytes(4)
    layers = struct.pack(">IH", MANY, 32_767) + layer * 32_767
    yield "psd-layers.psd", psd((64, 64), b"", layers, raw)
    rows = _BYTES // 2
    yield "psd-rows.psd", psd((1, rows), b"", b"", b"\0\1" + bytes(2 * rows))
    yield "psd-large.psd", psd((_LARGE, _LARGE), b"", b"", b"\0\1" + bytes(2 * _LARGE))
