"""npm packages of free emoji drawings -> RGBA uint8 arrays, one folder of the cache a design."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import resvg_py
from PIL import Image

HERE: Final = Path(__file__).resolve().parent
SIZE: Final = 96

# Design -> the package that holds its drawings, all freely licensed (see the model card).
TRAINING_DESIGNS: Final = {
    "noto": "@iconify-json/noto@1.2.9",
    "twemoji": "@iconify-json/twemoji@1.2.5",
    "fluent-emoji-flat": "@iconify-json/fluent-emoji-flat@1.2.6",
    "fluent-emoji": "@iconify-json/fluent-emoji@1.2.7",
    "noto-v1": "@iconify-json/noto-v1@1.2.5",
    "emojione": "@iconify-json/emojione@1.2.3",
}
HELD_OUT_DESIGN: Final = "openmoji"
PACKAGES: Final = TRAINING_DESIGNS | {HELD_OUT_DESIGN: "@iconify-json/openmoji@1.2.29"}

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Object:
    """Something the model can name: its emoji's code points, and one of six categories or ""."""

    code: str
    name: str
    category: str


@dataclass(frozen=True)
class Drawings:
    """N drawings: `pixels` N x SIZE x SIZE x 4 (RGBA), `object_ids` N, places in the objects."""

    pixels: Pixels
    object_ids: npt.NDArray[np.int64]


def read_objects() -> list[Object]:
    """Return the objects of objects.tsv, in order."""
    lines = (HERE / "objects.tsv").read_text(encoding="utf-8").splitlines()
    rows = [(line + "\t").split("\t") for line in lines if not line.startswith("#")]
    return [Object(code, name, category) for code, name, category, *_ in rows]


def load(design: str, cache: Path) -> Drawings:
    """Return a design's drawings of all objects that it has, rasterised once into `cache`."""
    file = cache / f"{design}-{SIZE}.npz"
    if not file.exists():
        _fetch(cache)
        drawings = _rasterise(design, cache)
        np.savez_compressed(file, pixels=drawings.pixels, object_ids=drawings.object_ids)
    with np.load(file) as kept:
        return Drawings(kept["pixels"], kept["object_ids"])


def render(svg: str, size: int) -> Pixels:
    """Return a drawing as size x size x 4."""
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size)
    drawing = Image.open(io.BytesIO(png)).convert("RGBA")
    # A drawing that is not square is centred on a square sheet.
    sheet = Image.new("RGBA", (size, size))
    sheet.paste(drawing, ((size - drawing.width) // 2, (size - drawing.height) // 2))
    return np.asarray(sheet)


def svg_of(design: str, code: str, cache: Path) -> str | None:
    """Return the drawing of an emoji as SVG text, None if the design lacks it."""
    return _svg(_icons(design, cache), _names(design, cache), code)


def _fetch(cache: Path) -> None:
    if (cache / "node_modules").is_dir():
        return
    if not shutil.which("npm"):
        sys.exit("npm is needed to fetch the drawings (Debian: apt-get install npm)")
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "package.json").write_text('{"name": "drawings", "private": true}\n')
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", *PACKAGES.values()]
    subprocess.run(command, cwd=cache, check=True)  # noqa: S603 - the list above, no shell


def _rasterise(design: str, cache: Path) -> Drawings:
    icons, names = _icons(design, cache), _names(design, cache)
    pixels, ids = [], []
    for number, thing in enumerate(read_objects()):
        svg = _svg(icons, names, thing.code)
        if svg:
            pixels.append(render(svg, SIZE))
            ids.append(number)
    return Drawings(np.stack(pixels), np.array(ids, dtype=np.int64))


def _icons(design: str, cache: Path) -> dict[str, Any]:
    file = cache / "node_modules/@iconify-json" / design / "icons.json"
    icons: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return icons


def _names(design: str, cache: Path) -> dict[str, str]:
    """Return code -> icon name. Older designs have no such table, but share Noto's names."""
    folder = cache / "node_modules/@iconify-json"
    own, shared = folder / design / "chars.json", folder / "noto/chars.json"
    table = json.loads((own if own.exists() else shared).read_text(encoding="utf-8"))
    codes: dict[str, str] = table or json.loads(shared.read_text(encoding="utf-8"))
    return {code.replace("-fe0f", ""): name for code, name in codes.items()}


def _svg(icons: dict[str, Any], names: dict[str, str], code: str) -> str | None:
    name = names.get(code, "")
    name = icons.get("aliases", {}).get(name, {}).get("parent", name)
    icon = icons["icons"].get(name)
    if icon is None:
        return None
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    space = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {space} viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
