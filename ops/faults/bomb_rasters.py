"""Bombs of JPEG, PNG, GIF and WebP: small files that are much work, or much memory."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from bomb_parts import RATIONAL, SHORT, chunk, encoded, png, riff, riff_chunk, segment, tiff, zeros
from PIL import Image, ImageCms

# Of a format's smallest piece; well above what is allowed.
MANY: Final = 300_000
_LARGE: Final = (14_000, 14_000)
_BYTES: Final = 4_000_000
_SEGMENT: Final = 65_000


def rasters() -> Iterator[tuple[str, bytes]]:
    """Yield the name of each bomb's file, and its bytes."""
    yield from _jpeg_structure()
    yield from _jpeg_metadata()
    yield from _png_chunks()
    yield from _png_pixels()
    yield from _gif()
    yield from _webp()


def _jpeg_structure() -> Iterator[tuple[str, bytes]]:
    sound = encoded("JPEG", quality=50)
    head, rest = sound[:2], sound[2:]
    yield "jpeg-junk.jpg", head + segment(0xFE, b"") + bytes(_BYTES) + rest
    yield "jpeg-zeros.jpg", sound[:20] + bytes(_BYTES)
    yield "jpeg-fill-bytes.jpg", head + b"\xff" * _BYTES + rest
    yield "jpeg-restarts-in-header.jpg", head + b"\xff\xd0" * MANY + rest
    yield "jpeg-comments.jpg", head + segment(0xFE, b"") * MANY + rest
    yield "jpeg-tables.jpg", head + segment(0xDB, (b"\0" + b"\1" * 64) * 1000) * 60 + rest
    for name, size, times in (("large", (8000, 8000), 4000), ("small", (16, 16), MANY)):
        scans = encoded("JPEG", "L", size, progressive=True)
        last = scans.rindex(b"\xff\xda")
        yield f"jpeg-scans-{name}.jpg", scans[:last] + scans[last:-2] * times + b"\xff\xd9"
        hidden = segment(0xFE, b"\xff\xd9")
        body = scans[:last] + (hidden + scans[last:-2]) * (times // 2) + b"\xff\xd9"
        yield f"jpeg-scans-{name}-hidden.jpg", body
    place = sound.index(b"\xff\xc0")
    for name, size in (("beyond", (65_535, 65_535)), ("wide", (3000, 65_500))):
        lie = struct.pack(">HH", *size)
        yield f"jpeg-{name}.jpg", sound[: place + 5] + lie + sound[place + 9 :]


def _jpeg_metadata() -> Iterator[tuple[str, bytes]]:
    sound = encoded("JPEG", quality=50)
    head, rest = sound[:2], sound[2:]
    exif = b"Exif\0\0"
    yield "jpeg-exif-segments.jpg", head + segment(0xE1, exif + bytes(_SEGMENT)) * 200 + rest
    loop = tiff([(34_665, 4, 1, 8), (34_853, 4, 1, 8)], next_ifd=8)
    yield "jpeg-exif-loop.jpg", head + segment(0xE1, exif + loop) + rest
    far = tiff([(513, 4, 1, 2**32 - 1), (514, 4, 1, 2**32 - 1)], next_ifd=2**32 - 1)
    yield "jpeg-thumbnail.jpg", head + segment(0xE1, exif + far) + rest
    fractions = tiff([(0x11A, RATIONAL, 8000, 8), (0x128, SHORT, 1, 2)], b"\1\0\0\0" * 16_000)
    yield "jpeg-exif-fractions.jpg", head + segment(0xE1, exif + fractions) + rest
    # A directory in the first segment, whose values fill the others.
    values = b"\1\0\0\0" * _BYTES
    start = tiff([(274, RATIONAL, 400_000, 200)], next_ifd=0).ljust(200, b"\0")
    whole = (start + values)[: 60 * _SEGMENT]
    parts = [whole[place : place + _SEGMENT] for place in range(0, len(whole), _SEGMENT)]
    split = b"".join(segment(0xE1, exif + part) for part in parts)
    yield "jpeg-exif-split.jpg", head + split + rest
    blocks = b"Photoshop 3.0\0" + b"8BIM\4\1\0\0\0\0\0\0" * 5000
    yield "jpeg-photoshop.jpg", head + segment(0xED, blocks) * 60 + rest
    pages = tiff([(0xB000, 7, 4, 0x30303130), (0xB001, 4, 1, 2**32 - 1), (0xB002, 7, 160, 8)])
    yield "jpeg-multi-picture.jpg", head + segment(0xE2, b"MPF\0" + pages) + rest
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    inks = profile[:16] + b"CMYK" + profile[20:128] + struct.pack(">I", 2**24) + profile[132:]
    for name, body in (("profile", inks + bytes(_BYTES)), ("profile-cut", inks[:140])):
        yield f"jpeg-cmyk-{name}.jpg", encoded("JPEG", "CMYK", (4000, 4000), icc_profile=body)
    turned = Image.Exif()
    turned[274] = 6
    yield "jpeg-turned.jpg", encoded("JPEG", "L", (10_000, 10_000), exif=turned)


def _png_chunks() -> Iterator[tuple[str, bytes]]:
    data = chunk(b"IDAT", zeros(65 * 64))
    size = (64, 64)
    yield "png-empty-idat.png", png(size, chunk(b"IDAT") * MANY + data)
    yield "png-private-chunks.png", png(size, data, before=chunk(b"abCd") * MANY)
    yield "png-chunks-behind.png", png(size, data, after=chunk(b"abCd") * MANY)
    yield "png-texts.png", png(size, data, before=chunk(b"tEXt", b"a\0b") * MANY)
    text = zeros(900_000)
    yield "png-ztxt.png", png(size, data, before=chunk(b"zTXt", b"a\0\0" + text) * 2000)
    large = b"a\0\1\0\0\0" + zeros(200_000_000)
    yield "png-itxt.png", png(size, data, after=chunk(b"iTXt", large) * 20)
    yield "png-profile.png", png(size, data, before=chunk(b"iCCP", b"a\0\0" + zeros(10**9)))
    frame = struct.pack(">IIIIIHHBB", 0, 1, 1, 0, 0, 1, 1, 0, 0)
    frames = chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)) + chunk(b"fcTL", frame) * MANY
    yield "png-frames.png", png(size, data, before=frames)
    many = tiff([(274, RATIONAL, _BYTES // 8, 8)], b"\1\0\0\0" * (_BYTES // 4))
    yield "png-exif-fractions.png", png(size, data, before=chunk(b"eXIf", many))
    again = b"Exif\0\0" + many
    yield "png-exif-prefix.png", png(size, data, before=chunk(b"eXIf", again))
    text = b"\nexif\n 1\n" + again.hex().encode()
    for name in (b"exif", b"Raw profile type exif"):
        before = chunk(b"tEXt", name + b"\0" + text)
        yield f"png-text-{len(name)}.png", png(size, data, before=before)
    loop = tiff([(34_665, 4, 1, 8)], next_ifd=8)
    yield "png-exif-loop.png", png(size, data, before=chunk(b"eXIf", loop))


def _png_pixels() -> Iterator[tuple[str, bytes]]:
    width, height = _LARGE
    grey = chunk(b"IDAT", zeros((width + 1) * height))
    yield "png-large.png", png(_LARGE, grey)
    yield "png-beyond.png", png((2**31 - 1, 2**31 - 1), grey)
    yield (
        "png-interlaced.png",
        png(_LARGE, chunk(b"IDAT", zeros(2 * width * height)), kind=(8, 0, 1)),
    )
    palette = chunk(b"PLTE", bytes(768)) + chunk(b"tRNS", bytes(256))
    yield "png-palette-alpha.png", png(_LARGE, grey, before=palette, kind=(8, 3, 0))
    deep = chunk(b"IDAT", zeros((8 * width + 1) * height))
    yield "png-64-bits.png", png(_LARGE, deep, kind=(16, 6, 0))
    yield "png-overrun.png", png((10, 10), chunk(b"IDAT", zeros(10**9)))


def _gif() -> Iterator[tuple[str, bytes]]:
    sound = encoded("GIF", "P")
    # Behind the screen and its palette of two colours or more.
    start = 13 + (3 << ((sound[10] & 7) + 1))
    head, rest = sound[:start], sound[start:]
    yield "gif-comment.gif", head + b"!\xfe" + b"\1#" * MANY + b"\0" + rest
    yield "gif-extensions.gif", head + b"!\xff\0" * MANY + rest
    yield "gif-application.gif", head + b"!\xff" + b"\1#" * MANY + b"\0" + rest
    yield "gif-frames.gif", head + rest[:-1] * (MANY // 10) + b";"
    screen = sound[:6] + struct.pack("<HH", 65_535, 3000) + sound[10:]
    yield "gif-wide.gif", screen
    frame = rest.index(b",")
    beyond = rest[: frame + 5] + b"\xff\xff\xff\xff" + rest[frame + 9 :]
    yield "gif-frame-beyond.gif", head + beyond
    clear = (
        b","
        + struct.pack("<HHHHB", 0, 0, 64, 64, 0)
        + b"\2"
        + (b"\xff" + b"\x24\x49\x92" * 85) * 15_000
    )
    yield "gif-clear-codes.gif", head + clear + b"\0;"


def _webp() -> Iterator[tuple[str, bytes]]:
    still = encoded("WEBP", size=(16, 16))[12:]
    extended = riff_chunk(b"VP8X", struct.pack("<I", 0) + b"\x0f\0\0\x0f\0\0")
    yield "webp-chunks.webp", riff([extended, still, riff_chunk(b"abcd") * MANY])
    yield "webp-chunks-first.webp", riff([extended, riff_chunk(b"abcd") * MANY, still])
    animated = riff_chunk(b"VP8X", struct.pack("<I", 2) + b"\x0f\0\0\x0f\0\0")
    start = riff_chunk(b"ANIM", bytes(6))
    part = riff_chunk(b"ANMF", bytes(6) + b"\x0f\0\0\x0f\0\0" + bytes(4) + still)
    yield "webp-frames.webp", riff([animated, start, part * 50_000])
    canvas = (16_382).to_bytes(3, "little") + (12_000).to_bytes(3, "little")
    large = riff_chunk(b"VP8X", struct.pack("<I", 2) + canvas)
    yield "webp-canvas.webp", riff([large, start, part])
    lossless = bytearray(encoded("WEBP", size=(16, 16), lossless=True))
    place = lossless.index(b"VP8L") + 9
    struct.pack_into("<I", lossless, place, 16_382 | 12_000 << 14)
    yield "webp-lossless.webp", bytes(lossless)
    flags = riff_chunk(b"VP8X", struct.pack("<I", 8) + b"\x0f\0\0\x0f\0\0")
    many = tiff([(274, RATIONAL, _BYTES // 8, 8)], b"\1\0\0\0" * (_BYTES // 4))
    yield "webp-exif-fractions.webp", riff([flags, still, riff_chunk(b"EXIF", many)])
    again = riff_chunk(b"EXIF", 2 * b"Exif\0\0" + many)
    yield "webp-exif-prefix.webp", riff([flags, still, again])
