"""npm packages of free drawings -> RGBA uint8 arrays, one file of the cache a design."""

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
from fontTools.pens.svgPathPen import SVGPathPen
from fontTools.ttLib import TTFont
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
    "fxemoji": "@iconify-json/fxemoji@1.2.2",
}
# Emoji as black shapes, and icons of lines or flat colours. They teach categories alone: a thing is
# its outline more than its colours. Too alike as shapes, and too loosely named, to teach objects.
SHAPE_DESIGNS: Final = {
    "fluent-emoji-high-contrast": "@iconify-json/fluent-emoji-high-contrast@1.2.6",
    "emojione-monotone": "@iconify-json/emojione-monotone@1.2.1",
}
ICON_SETS: Final = {
    "streamline-emojis": "@iconify-json/streamline-emojis@1.2.4",
    "streamline-color": "@iconify-json/streamline-color@1.2.2",
    "icon-park": "@iconify-json/icon-park@1.2.4",
    "ph": "@iconify-json/ph@1.2.2",
    "tabler": "@iconify-json/tabler@1.2.41",
    "mdi": "@iconify-json/mdi@1.2.3",
    "lucide": "@iconify-json/lucide@1.2.137",
    "fa6-solid": "@iconify-json/fa6-solid@1.2.4",
}
# The third phase adds these: drawings of objects in lines, a font by weight, and a set with fills.
LINE_DESIGNS: Final = {
    "noto-emoji-300": "@fontsource/noto-emoji@5.3.2",
    "noto-emoji-600": "@fontsource/noto-emoji@5.3.2",
    "streamline-emojis-named": "@iconify-json/streamline-emojis@1.2.4",
}
MORE_ICON_SETS: Final = {
    "streamline-ultimate-color": "@iconify-json/streamline-ultimate-color@1.2.2",
    "streamline-plump-color": "@iconify-json/streamline-plump-color@1.2.2",
    "streamline-freehand-color": "@iconify-json/streamline-freehand-color@1.2.2",
    "streamline-flex-color": "@iconify-json/streamline-flex-color@1.2.2",
    "streamline-sharp-color": "@iconify-json/streamline-sharp-color@1.2.2",
    "streamline-stickies-color": "@iconify-json/streamline-stickies-color@1.2.2",
    "streamline": "@iconify-json/streamline@1.2.5",
    "streamline-ultimate": "@iconify-json/streamline-ultimate@1.2.2",
    "flat-color-icons": "@iconify-json/flat-color-icons@1.2.3",
    "meteocons": "@iconify-json/meteocons@1.2.4",
    "healthicons": "@iconify-json/healthicons@1.2.13",
    "maki": "@iconify-json/maki@1.2.5",
    "temaki": "@iconify-json/temaki@1.2.6",
    "pinhead": "@iconify-json/pinhead@1.2.28",
    "mingcute": "@iconify-json/mingcute@1.2.8",
    "hugeicons": "@iconify-json/hugeicons@1.2.35",
    "solar": "@iconify-json/solar@1.2.13",
    "iconoir": "@iconify-json/iconoir@1.2.11",
    "guidance": "@iconify-json/guidance@1.2.2",
    "bxs": "@iconify-json/bxs@1.2.3",
    "lucide-lab": "@iconify-json/lucide-lab@1.2.3",
    "marketeq": "@iconify-json/marketeq@1.2.2",
    "game-icons": "@iconify-json/game-icons@1.2.4",
}
# To choose by, and never trained on: two sets of icons in colours, and an older emoji design.
DEVELOPMENT_DESIGNS: Final = {
    "emojione-v1": "@iconify-json/emojione-v1@1.2.3",
    "streamline-kameleon-color": "@iconify-json/streamline-kameleon-color@1.2.2",
    "streamline-cyber-color": "@iconify-json/streamline-cyber-color@1.2.2",
}
HELD_OUT_DESIGN: Final = "openmoji"
PACKAGES: Final = (
    TRAINING_DESIGNS
    | SHAPE_DESIGNS
    | ICON_SETS
    | LINE_DESIGNS
    | MORE_ICON_SETS
    | DEVELOPMENT_DESIGNS
    | {HELD_OUT_DESIGN: "@iconify-json/openmoji@1.2.29"}
)
NONE: Final = -1
CATEGORIES: Final = ("动物", "植物", "交通工具", "电子产品", "食物", "自然景观")
# Endings that tell the styles of one icon apart. Phosphor's other weights differ too little.
_STYLES: Final = frozenset(
    (
        "fill",
        "filled",
        "duotone",
        "outline",
        "flat",
        "line",
        "linear",
        "solid",
        "remix",
        "duo",
        "bold",
    )
)
_ICONS_WITHOUT_OBJECTS: Final = (
    *ICON_SETS,
    *MORE_ICON_SETS,
    "streamline-kameleon-color",
    "streamline-cyber-color",
)
_FONT: Final = "noto-emoji-"
_NAMED: Final = "-named"

Pixels = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Object:
    """Something the model can name: its emoji's code points, and one of six categories or ""."""

    code: str
    name: str
    category: str


@dataclass(frozen=True)
class Drawings:
    """N drawings: `pixels` N x SIZE x SIZE x 4 (RGBA), and of what they are.

    `object_ids` (N) are places in the objects, `category_ids` (N) in the categories, NONE if none.
    """

    pixels: Pixels
    object_ids: Ids
    category_ids: Ids


def read_objects() -> list[Object]:
    """Return the objects of objects.tsv, in order."""
    lines = (HERE / "objects.tsv").read_text(encoding="utf-8").splitlines()
    rows = [(line + "\t").split("\t") for line in lines if not line.startswith("#")]
    return [Object(code, name, category) for code, name, category, *_ in rows]


def load(design: str, cache: Path, size: int = SIZE) -> Drawings:
    """Return a design's drawings of all objects that it has, rasterised once into `cache`.

    An icon set's drawings are of no object, only of a category.
    """
    file = cache / f"{design}-{size}.npz"
    if not file.exists():
        _fetch(cache)
        icons = design in _ICONS_WITHOUT_OBJECTS
        drawings = (_icon_set if icons else _emoji)(design, cache, size)
        np.savez_compressed(file, **vars(drawings))
    with np.load(file) as kept:
        return Drawings(**kept)


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
    return _svg(_icons(design, cache), _names(design, cache).get(code, ""))


def _fetch(cache: Path) -> None:
    if (cache / "node_modules").is_dir():
        return
    if not shutil.which("npm"):
        sys.exit("npm is needed to fetch the drawings (Debian: apt-get install npm)")
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "package.json").write_text('{"name": "drawings", "private": true}\n')
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund"]
    command += sorted(set(PACKAGES.values()))
    subprocess.run(command, cwd=cache, check=True)  # noqa: S603 - the list above, no shell


def _emoji(design: str, cache: Path, size: int) -> Drawings:
    if design.startswith(_FONT):
        svgs = _font_svgs(design, cache)
    else:
        icons, names = _icons(design, cache), _names(design, cache)
        svgs = {code: svg for code, name in names.items() if (svg := _svg(icons, name))}
    pixels, objects, categories = [], [], []
    for number, thing in enumerate(read_objects()):
        svg = svgs.get(thing.code)
        if svg:
            pixels.append(render(svg, size))
            objects.append(number)
            categories.append(CATEGORIES.index(thing.category) if thing.category else NONE)
    return _stacked(pixels, objects, categories)


def _icon_set(design: str, cache: Path, size: int) -> Drawings:
    icons = _icons(design, cache)
    icon_names = IconNames()
    pixels, categories = [], []
    for name in icons["icons"]:
        category = icon_names.category(name)
        svg = _svg(icons, name)
        if category and svg:
            pixels.append(render(svg, size))
            categories.append(CATEGORIES.index(category))
    return _stacked(pixels, [NONE] * len(pixels), categories)


def _stacked(pixels: list[Pixels], objects: list[int], categories: list[int]) -> Drawings:
    return Drawings(
        np.stack(pixels),
        np.array(objects, dtype=np.int64),
        np.array(categories, dtype=np.int64),
    )


class IconNames:
    """The category of an icon by its English name, as icons.tsv lists names and words."""

    def __init__(self) -> None:
        lines = (HERE / "icons.tsv").read_text(encoding="utf-8").splitlines()
        rows = [line.split("\t") for line in lines if not line.startswith("#")]
        self._names, self._words = (
            {
                word: category
                for of, category, options in rows
                if of == kind
                for word in options.split()
            }
            for kind in ("name", "word")
        )

    def category(self, name: str) -> str | None:
        """Return the category of a name that is listed, or of whose words each is listed.

        None where one word is unknown, or where they speak of two categories, or of none.
        """
        options = [word for word in name.split("-") if not word.isdigit() and word not in _STYLES]
        whole = self._names.get("-".join(options))
        if whole:
            return whole
        found = {self._words.get(word) for word in options} - {"-"}
        return found.pop() if len(found) == 1 else None


def _font_svgs(design: str, cache: Path) -> dict[str, str]:
    """Return code -> glyph as SVG text, of a font that is cut into several files."""
    folder = cache / "node_modules/@fontsource/noto-emoji/files"
    weight = design.removeprefix(_FONT)
    svgs = {}
    for file in sorted(folder.glob(f"noto-emoji-*-{weight}-normal.woff")):
        font = TTFont(file)
        glyphs, metrics = font.getGlyphSet(), font["hhea"]
        for code, name in font.getBestCmap().items():
            pen = SVGPathPen(glyphs)
            glyphs[name].draw(pen)
            width, high = glyphs[name].width, metrics.ascent - metrics.descent
            svgs[f"{code:x}"] = (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {high}">'
                f'<path transform="matrix(1 0 0 -1 0 {metrics.ascent})" d="{pen.getCommands()}"/>'
                "</svg>"
            )
    return svgs


def _icons(design: str, cache: Path) -> dict[str, Any]:
    package = design.removesuffix(_NAMED)
    file = cache / "node_modules/@iconify-json" / package / "icons.json"
    icons: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return icons


def _names(design: str, cache: Path) -> dict[str, str]:
    """Return code -> icon name. Older designs have no such table, but share Noto's names."""
    folder = cache / "node_modules/@iconify-json"
    own, shared = folder / design / "chars.json", folder / "noto/chars.json"
    table = json.loads((own if own.exists() else shared).read_text(encoding="utf-8"))
    codes: dict[str, str] = table or json.loads(shared.read_text(encoding="utf-8"))
    return {code.replace("-fe0f", ""): name for code, name in codes.items()}


def _svg(icons: dict[str, Any], name: str) -> str | None:
    name = icons.get("aliases", {}).get(name, {}).get("parent", name)
    # Firefox OS writes the names that all share without hyphens.
    icon = icons["icons"].get(name) or icons["icons"].get(name.replace("-", ""))
    if icon is None:
        return None
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    space = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {space} viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
