"""Free photographs of Debian packages -> pictures with a category, fetched once into a cache.

photographs.tsv lists them. GCompris keeps its pictures in Qt's resource files, which are unpacked.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from PIL import Image

HERE: Final = Path(__file__).resolve().parent
SIDE: Final = 480
_IS_FOLDER: Final = 2
_IS_ZLIB: Final = 1
_NODE_BYTES: Final = 22
_RESOURCES: Final = "gcompris"


class Photograph(NamedTuple):
    """A picture of at most SIDE pixels, and its top category, or "" if it has none."""

    image: Image.Image
    category: str


class _Row(NamedTuple):
    package: str
    path: str
    category: str


def load(folder: Path) -> list[Photograph]:
    """Return all photographs of the list, from the cache folder, which is filled first."""
    kept = folder / "photographs"
    found = []
    for number, row in enumerate(_rows()):
        file = kept / f"{number:03}.webp"
        if not file.exists():
            kept.mkdir(parents=True, exist_ok=True)
            _shrunk(folder, row).save(file, quality=92)
        with Image.open(file) as image:
            found.append(Photograph(image.convert("RGB"), row.category.strip("-")))
    return found


def _rows() -> list[_Row]:
    lines = (HERE / "photographs.tsv").read_text(encoding="utf-8").splitlines()
    return [_Row(*line.split("\t")) for line in lines if not line.startswith("#")]


def _shrunk(folder: Path, row: _Row) -> Image.Image:
    tree = _unpacked(folder, row.package)
    with Image.open(tree / row.path) as image:
        # Cut-out ones stand on white.
        rgba = image.convert("RGBA")
    rgba.thumbnail((SIDE, SIDE))
    sheet = Image.new("RGB", rgba.size, "white")
    sheet.paste(rgba, mask=rgba)
    return sheet


@cache
def _unpacked(folder: Path, package: str) -> Path:
    """Return the tree of a Debian package, its resource files unpacked too."""
    tree = folder / package
    if not tree.exists():
        _run(["apt-get", "download", package], folder)
        (file,) = folder.glob(f"{package}_*.deb")
        _run(["dpkg-deb", "-x", str(file), str(tree)], folder)
        for resources in tree.rglob("*.rcc"):
            for path, body in _resources(resources.read_bytes()):
                if path.startswith(_RESOURCES):
                    (tree / path).parent.mkdir(parents=True, exist_ok=True)
                    (tree / path).write_bytes(body)
    return tree


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True)  # noqa: S603 - no shell, our own list
    except OSError as e:
        sys.exit(f"{command[0]}: {e}; the photographs come from Debian's packages")


def _resources(body: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of each file of a Qt resource file, versions 2 and 3."""
    _version, tree, data, names = struct.unpack_from(">4I", body, 4)

    def name(offset: int) -> str:
        start = names + offset
        (length,) = struct.unpack_from(">H", body, start)
        return body[start + 6 : start + 6 + 2 * length].decode("utf-16-be")

    def walk(number: int, path: str) -> Iterator[tuple[str, bytes]]:
        at = tree + number * _NODE_BYTES
        of_name, flags = struct.unpack_from(">IH", body, at)
        here = f"{path}/{name(of_name)}".lstrip("/") if number else ""
        if flags & _IS_FOLDER:
            count, first = struct.unpack_from(">II", body, at + 6)
            for child in range(first, first + count):
                yield from walk(child, here)
            return
        start = data + struct.unpack_from(">I", body, at + 10)[0]
        (length,) = struct.unpack_from(">I", body, start)
        content = body[start + 4 : start + 4 + length]
        if flags & _IS_ZLIB:
            # Before it stands how long it is unpacked.
            content = zlib.decompress(content[4:])
        if not flags & ~(_IS_ZLIB | _IS_FOLDER):
            yield here, content

    yield from walk(0, "")
