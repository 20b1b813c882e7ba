"""Pieces of image files, written by hand: what no encoder would write."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import Final

from PIL import Image

PNG_MAGIC: Final = b"\x89PNG\r\n\x1a\n"
SHORT: Final = 3
LONG: Final = 4
RATIONAL: Final = 5
_MB: Final = 1 << 20
_ADLER: Final = 65_521


def encoded(
    kind: str, mode: str = "RGB", size: tuple[int, int] = (64, 64), **options: object
) -> bytes:
    """Return a sound image of one colour."""
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind, **options)
    return buffer.getvalue()


def zeros(count: int) -> bytes:
    """Return so many zeros, deflated, without ever holding or packing all of them."""
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    # After a full flush the same bytes mean the same again.
    block = packer.compress(bytes(_MB)) + packer.flush(zlib.Z_FULL_FLUSH)
    rest = packer.compress(bytes(count % _MB)) + packer.flush()
    checksum = count % _ADLER << 16 | 1
    return b"\x78\xda" + block * (count // _MB) + rest + struct.pack(">I", checksum)


def segment(marker: int, body: bytes) -> bytes:
    """Return a segment of a JPEG or a JPEG 2000 codestream."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def chunk(name: bytes, body: bytes = b"") -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(
    size: tuple[int, int],
    data: bytes,
    *,
    before: bytes = b"",
    after: bytes = b"",
    kind: tuple[int, int, int] = (8, 0, 0),
) -> bytes:
    """Return a PNG; `kind` is its bits, its colour type and whether it is interlaced."""
    bits, colour, interlaced = kind
    header = struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, interlaced)
    return PNG_MAGIC + chunk(b"IHDR", header) + before + data + after + chunk(b"IEND")


def tiff(tags: Iterable[tuple[int, int, int, int]], body: bytes = b"", next_ifd: int = 0) -> bytes:
    """Return a TIFF; tags are number, type, count and value, or the place of the values.

    The body begins at byte 8.
    """
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + ifd(tags, next_ifd)


def ifd(tags: Iterable[tuple[int, int, int, int]], next_ifd: int = 0) -> bytes:
    """Return a directory of a TIFF."""
    entries = [struct.pack("<HHII", *tag) for tag in sorted(tags)]
    return struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", next_ifd)


def grey_tags(width: int, height: int, compression: int = 1) -> list[tuple[int, int, int, int]]:
    """Return the tags of a grey TIFF, without those of its strips."""
    values = {256: width, 257: height, 258: 8, 259: compression, 262: 1, 277: 1}
    return [(tag, LONG, 1, value) for tag, value in values.items()]


def box(name: bytes, body: bytes = b"") -> bytes:
    """Return a box of JPEG 2000 or AVIF."""
    return struct.pack(">I", len(body) + 8) + name + body


def riff(chunks: Sequence[bytes]) -> bytes:
    """Return a WebP of these chunks."""
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def riff_chunk(name: bytes, body: bytes = b"") -> bytes:
    """Return a chunk of a WebP."""
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def codestream(
    size: tuple[int, int],
    tile: tuple[int, int],
    *,
    components: int = 1,
    layers: int = 1,
    levels: int = 0,
    precinct: int | None = None,
    extra: bytes = b"",
) -> bytes:
    """Return the beginning of a JPEG 2000 codestream, with an empty first tile."""
    siz = struct.pack(">HIIIIIIIIH", 0, *size, 0, 0, *tile, 0, 0, components)
    coding = struct.pack(">BBHBBBBBB", precinct is not None, 0, layers, 0, levels, 4, 4, 0, 1)
    if precinct is not None:
        coding += bytes([precinct]) * (levels + 1)
    steps = bytes([0x40]) + bytes([0x40]) * (3 * levels + 1)
    header = segment(0x51, siz + b"\7\1\1" * components) + segment(0x52, coding)
    first = segment(0x90, struct.pack(">HIBB", 0, 0, 0, 1)) + b"\xff\x93" + bytes(64) + b"\xff\xd9"
    return b"\xff\x4f" + header + segment(0x5C, steps) + extra + first


def jp2(stream: bytes, size: tuple[int, int], *, components: int = 1, extra: bytes = b"") -> bytes:
    """Return a JPEG 2000 file of that codestream; `extra` are boxes before its header."""
    info = box(b"ihdr", struct.pack(">IIHBBBB", size[1], size[0], components, 7, 7, 0, 0))
    colour = box(b"colr", struct.pack(">BBBI", 1, 0, 0, 17 if components == 1 else 16))
    start = box(b"jP  ", b"\r\n\x87\n") + box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    return start + extra + box(b"jp2h", info + colour) + box(b"jp2c", stream)
