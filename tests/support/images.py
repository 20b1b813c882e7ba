"""Images for tests: small, real, quickly made."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

from PIL import Image

KINDS = 16


def picture(number: int, size: tuple[int, int] = (96, 72)) -> Image.Image:
    """Return one of `KINDS` pictures: a coloured disc on a gradient."""
    red = Image.linear_gradient("L").resize(size)
    green = red.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    blue = Image.radial_gradient("L").resize(size)
    bands = [red, green, blue]
    turn = number % 3
    scale = 0.4 + 0.6 * (number % KINDS) / KINDS
    return Image.merge("RGB", [b.point(lambda v: v * scale) for b in bands[turn:] + bands[:turn]])


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    """Return the bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def fill(directory: Path, count: int, size: tuple[int, int] = (96, 72)) -> list[Path]:
    """Write so many JPEGs, in subdirectories of 100, and return their paths."""
    bodies = [encoded(picture(number, size)) for number in range(KINDS)]
    paths = []
    for number in range(count):
        path = directory / f"册{number // 100}" / f"图 {number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bodies[number % KINDS])
        paths.append(path)
    return paths


def huge_png(width: int, height: int) -> bytes:
    """Return a valid black greyscale PNG of that size without ever holding its pixels."""
    packer, rows = zlib.compressobj(9, wbits=-zlib.MAX_WBITS), bytes(100 * (1 + width))
    # After a full flush the same bytes mean the same again, so they need not be packed again.
    block = packer.compress(rows) + packer.flush(zlib.Z_FULL_FLUSH)
    rest = packer.compress(rows[: height % 100 * (1 + width)]) + packer.flush()
    checksum = height * (1 + width) % 65_521 << 16 | 1  # Adler-32 of so many zeros
    data = b"\x78\xda" + block * (height // 100) + rest + struct.pack(">I", checksum)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def slow_ppm() -> bytes:
    """Return a picture of 100 pixels that takes minutes: its decoder starts again per comment."""
    return b"P3\n10 10\n255\n" + b"#\n" * 2**23 + b"0 " * 300
