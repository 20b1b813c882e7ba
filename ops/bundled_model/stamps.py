"""Tux Paint's photographic stamps -> pictures on six grounds: to measure with, never to learn from.

`stamps.tsv` says of each what category and which names are right, as its caption says it; stamps
that are drawn, and of other things than the classes and the six categories, are left out.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from PIL import Image

HERE: Final = Path(__file__).resolve().parent
SIDE: Final = 320
SHARE: Final = 0.75
PLAIN: Final = {"white": "#ffffff", "grey": "#9a9a9a", "sand": "#c8b48c"}
PHOTOGRAPHIC: Final = ("glass", "meadow", "evening")


class Stamp(NamedTuple):
    """A stamp: its file below Tux Paint's folder, the right categories, and the right names."""

    file: Path
    categories: tuple[str, ...]
    names: tuple[str, ...]


def read(folder: Path) -> list[Stamp]:
    """Return the stamps of the table that lie below a folder."""
    with (HERE / "stamps.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [
        Stamp(folder / row["stamp"], _split(row["category"]), _split(row["name"])) for row in rows
    ]


def on_grounds(stamp: Stamp) -> Iterator[tuple[str, bytes]]:
    """Yield the name of each ground and a stamp on it, as a PNG."""
    with Image.open(stamp.file) as image:
        rgba = image.convert("RGBA")
    rgba = rgba.crop(rgba.getchannel("A").getbbox())
    factor = SHARE * SIDE / max(rgba.size)
    width, height = (max(1, round(factor * length)) for length in rgba.size)
    rgba = rgba.resize((width, height), Image.Resampling.LANCZOS)
    for name in (*PLAIN, *PHOTOGRAPHIC):
        sheet = ground(name)
        sheet.paste(rgba, ((SIDE - width) // 2, (SIDE - height) // 2), rgba)
        buffer = io.BytesIO()
        sheet.save(buffer, "PNG")
        yield name, buffer.getvalue()


def ground(name: str) -> Image.Image:
    """Return a ground: one colour, or a part of a photograph."""
    if name in PLAIN:
        return Image.new("RGB", (SIDE, SIDE), PLAIN[name])
    with Image.open(HERE / "grounds" / f"{name}.jpg") as image:
        return image.convert("RGB")


def _split(cell: str) -> tuple[str, ...]:
    return () if cell == "-" else tuple(cell.split("|"))
