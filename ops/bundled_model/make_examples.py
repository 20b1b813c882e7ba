"""Drawings and photographs -> two dozen example images: python ops/bundled_model/make_examples.py.

Scenes that no training run has seen: a sky, a ground or a table, a shadow, a drawing at its place.
And photographs, on which nothing was trained: those that Plasma offers for people's accounts
(apt-get install plasma-workspace-data), all CC0. Several formats, sizes up to a camera's, and the
oddities that files have in the wild.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import drawings
from PIL import Image, ImageDraw, ImageFilter

EXAMPLES: Final = drawings.HERE.parent / "examples"
CAMERA: Final = (4000, 3000)
SMALL: Final = (640, 480)
EXIF_ORIENTATION: Final = 0x0112
TURNED_LEFT: Final = 6

Save = Callable[[Image.Image, Path], None]


@dataclass(frozen=True)
class Example:
    """A picture to make: of which object, from which design, how large, and how it is stored."""

    seed: int
    name: str
    design: str
    ending: str
    size: tuple[int, int]
    save: Save


def _as(**options: Any) -> Save:
    return lambda image, path: image.save(path, **options)


def _turned(image: Image.Image, path: Path) -> None:
    """Store the picture lying on its side, with the EXIF note that says so."""
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = TURNED_LEFT
    image.transpose(Image.Transpose.ROTATE_90).save(path, quality=85, exif=exif)


def _cmyk(image: Image.Image, path: Path) -> None:
    image.convert("CMYK").save(path, quality=85)


def _palette(image: Image.Image, path: Path) -> None:
    image.quantize(128).save(path, optimize=True)


def _animated(image: Image.Image, path: Path) -> None:
    """Store three frames, of which the first counts."""
    frames = [image.rotate(angle) for angle in (0, 8, -8)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=200, loop=0)


JPEG: Final = _as(quality=80)
NOTO, TWEMOJI, FLUENT = "noto", "twemoji", "fluent-emoji-flat"
EXAMPLE_SET: Final = (
    Example(1, "熊猫", TWEMOJI, "jpg", CAMERA, JPEG),
    Example(2, "大象", FLUENT, "jpg", CAMERA, JPEG),
    Example(3, "救护车", NOTO, "jpg", (3000, 4000), JPEG),
    Example(5, "向日葵", NOTO, "jpg", SMALL, _turned),
    Example(6, "自行车", TWEMOJI, "jpg", SMALL, _cmyk),
    Example(8, "蝴蝶", FLUENT, "png", SMALL, _palette),
    Example(9, "汉堡", NOTO, "png", (512, 512), _as(optimize=True)),
    Example(10, "西瓜", TWEMOJI, "webp", SMALL, _as(quality=80)),
    Example(11, "香蕉", NOTO, "webp", (1600, 1200), _as(quality=80)),
    Example(12, "青蛙", FLUENT, "gif", (320, 240), _animated),
    Example(13, "雪人", NOTO, "bmp", (320, 240), _as()),
    Example(14, "足球", TWEMOJI, "tif", (400, 300), _as(compression="tiff_lzw")),
    Example(17, "火山", NOTO, "jpg", SMALL, JPEG),
    Example(18, "彩虹", TWEMOJI, "jpg", SMALL, JPEG),
    Example(21, "相机", FLUENT, "jpg", SMALL, JPEG),
)
PHOTOGRAPHS: Final = {
    "猫": "Cat",
    "狗": "Dog",
    "鸟": "Parrot",
    "蜥蜴": "Chameleon",
    "鱼": "Fish",
    "气球": "Air Balloon",
    "汽车": "Car",
    "画笔": "Brushes",
    "航天飞机": "Shuttle",
}


def compose(drawing: Image.Image, size: tuple[int, int], dice: random.Random) -> Image.Image:
    """Return the drawing standing in a simple scene, RGB."""
    width, height = size
    scene = Image.linear_gradient("L").resize(size)
    sky = Image.merge("RGB", [scene.point(_ramp(dice)) for _ in range(3)])
    ground = tuple(dice.randrange(120, 220) for _ in range(3))
    horizon = int(height * dice.uniform(0.6, 0.75))
    ImageDraw.Draw(sky).rectangle((0, horizon, width, height), fill=ground)
    side = int(min(size) * dice.uniform(0.62, 0.75))
    left = int((width - side) * dice.uniform(0.35, 0.65))
    top = int((height - side) * dice.uniform(0.45, 0.7))
    shadow = Image.new("L", size)
    foot = (left + side // 8, top + side * 15 // 16, left + side * 7 // 8, top + side * 17 // 16)
    ImageDraw.Draw(shadow).ellipse(foot, fill=90)
    blurred = shadow.filter(ImageFilter.GaussianBlur(side / 40))
    sky.paste((40, 40, 40), mask=blurred)
    standing = drawing.resize((side, side), Image.Resampling.LANCZOS)
    sky.paste(standing, (left, top), standing)
    return sky


def _ramp(dice: random.Random) -> Callable[[int], float]:
    low, high = dice.uniform(130, 190), dice.uniform(200, 250)
    return lambda value: low + (high - low) * value / 255


def make(cache: Path, photographs: Path, out: Path) -> None:
    """Write all examples to `out`."""
    codes = {thing.name: thing.code for thing in drawings.read_objects()}
    out.mkdir(parents=True, exist_ok=True)
    for example in EXAMPLE_SET:
        svg = drawings.svg_of(example.design, codes[example.name], cache)
        if svg is None:
            message = f"{example.design} has no {example.name}"
            raise ValueError(message)
        side = min(1024, *example.size)
        drawing = Image.fromarray(drawings.render(svg, side))
        image = compose(drawing, example.size, random.Random(example.seed))  # noqa: S311 - no secret
        example.save(image, out / f"{example.name}.{example.ending}")
    for name, file in PHOTOGRAPHS.items():
        with Image.open(photographs / f"{file}.png") as photograph:
            JPEG(photograph.convert("RGB"), out / f"{name}.jpg")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path("drawings"), help="fetched drawings")
    parser.add_argument(
        "--photographs", type=Path, default=Path("/usr/share/plasma/avatars/photos")
    )
    parser.add_argument("--out", type=Path, default=EXAMPLES)
    argv = parser.parse_args()
    make(argv.cache, argv.photographs, argv.out)
