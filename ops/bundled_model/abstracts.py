"""Seeds -> pictures on which nothing has a name: gradients, blurs, shapes, waves, tiles, noise.

As wallpapers and backgrounds are, of random colours. All are made here; none is of somebody else.

Shapes: H = W = the side of a picture in pixels.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

BATCH: Final = 32
Dice = np.random.Generator
Floats = npt.NDArray[np.float64]
Colour = tuple[int, int, int]


def batches(views: int, side: int, first_seed: int = 0) -> Iterator[Tensor]:
    """Yield pictures B3HW in 0..1, `views` in all."""
    for start in range(0, views, BATCH):
        seeds = range(first_seed + start, first_seed + min(start + BATCH, views))
        arrays = [np.asarray(abstract(seed, side)).copy() for seed in seeds]
        yield torch.stack([torch.from_numpy(one).permute(2, 0, 1) for one in arrays]).float() / 255


def abstract(seed: int, side: int) -> Image.Image:
    """Return the picture of a seed: of one kind or of two, perhaps blurred, perhaps grainy."""
    dice = np.random.default_rng(seed)
    image = KINDS[seed % len(KINDS)](dice, side)
    if _happens(dice, 0.3):
        other = KINDS[int(dice.integers(len(KINDS)))](dice, side)
        image = Image.blend(image, other, dice.uniform(0.2, 0.8))
    if _happens(dice, 0.4):
        image = image.filter(ImageFilter.GaussianBlur(dice.uniform(0.5, 25)))
    if _happens(dice, 0.3):
        grain = dice.normal(0, dice.uniform(1, 12), (side, side, 3))
        image = Image.fromarray(_bytes(np.asarray(image, float) + grain))
    return image


def _gradient(dice: Dice, side: int) -> Image.Image:
    rows, columns = np.mgrid[0:side, 0:side] / side
    angle = dice.uniform(0, math.tau)
    along = columns * math.cos(angle) + rows * math.sin(angle)
    if _happens(dice, 0.4):
        along = np.hypot(columns - dice.random(), rows - dice.random())
    return _painted(along, _colours(dice, int(dice.integers(2, 5))))


def _blur(dice: Dice, side: int) -> Image.Image:
    """Return noise of several sizes, laid over each other."""
    total = np.zeros((side, side, 3))
    for octave in range(int(dice.integers(1, 6))):
        small = dice.integers(0, 255, (2 ** (octave + 1) + 2, 2 ** (octave + 1) + 2, 3), np.uint8)
        large = Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)
        total += 0.5 ** (octave * dice.uniform(0.3, 1.2)) * np.asarray(large, float)
    if _happens(dice, 0.7):
        return _painted(total[..., 0], _colours(dice, 3))
    return Image.fromarray(_bytes(255 * (total - total.min()) / np.ptp(total)))


def _shapes(dice: Dice, side: int) -> Image.Image:
    """Return shapes of one kind, scattered over a gradient, half transparent."""
    image = _gradient(dice, side)
    draw = ImageDraw.Draw(image, "RGBA")
    colours, size = _colours(dice, 5), side * dice.uniform(0.03, 0.4)
    shape = SHAPES[int(dice.integers(len(SHAPES)))]
    for _ in range(int(dice.integers(3, 120))):
        fill = (*colours[int(dice.integers(5))], int(dice.integers(30, 256)))
        x, y = dice.uniform(-0.1, 1.1, 2) * side
        shape(draw, (x, y, size * dice.uniform(0.3, 1.5)), fill, dice)
    return image


def _ellipse(draw: Any, at: tuple[float, float, float], fill: Any, _dice: Dice) -> None:
    x, y, size = at
    draw.ellipse((x - size, y - size, x + size, y + size), fill=fill)


def _triangle(draw: Any, at: tuple[float, float, float], fill: Any, dice: Dice) -> None:
    x, y, size = at
    draw.polygon([tuple(dice.normal((x, y), size)) for _ in range(3)], fill=fill)


def _rectangle(draw: Any, at: tuple[float, float, float], fill: Any, dice: Dice) -> None:
    x, y, size = at
    width, height = size * dice.uniform(0.3, 2, 2)
    draw.rectangle((x, y, x + width, y + height), fill=fill)


def _stroke(draw: Any, at: tuple[float, float, float], fill: Any, dice: Dice) -> None:
    x, y, size = at
    end = dice.normal((x, y), 4 * size)
    draw.line([(x, y), tuple(end)], fill=fill, width=int(1 + size / 6))


def _arc(draw: Any, at: tuple[float, float, float], fill: Any, dice: Dice) -> None:
    x, y, size = at
    box = (x - size, y - size, x + size, y + size)
    draw.arc(box, *dice.uniform(0, 360, 2), fill=fill, width=int(1 + size / 5))


def _polygon(draw: Any, at: tuple[float, float, float], fill: Any, dice: Dice) -> None:
    corners, turn = int(dice.integers(3, 8)), int(dice.integers(360))
    draw.regular_polygon(at, corners, rotation=turn, fill=fill)


def _waves(dice: Dice, side: int) -> Image.Image:
    """Return layers with wavy edges, lying any way."""
    image = _gradient(dice, side)
    draw = ImageDraw.Draw(image, "RGBA")
    layers = int(dice.integers(2, 14))
    across = np.linspace(0, side, 80)
    for number, colour in enumerate(_colours(dice, layers)):
        phase = across / side * dice.uniform(1, 12) + dice.uniform(0, math.tau)
        edge = side * (0.15 + 0.85 * number / layers + dice.uniform(0.01, 0.15) * np.sin(phase))
        below = [(0, 1.2 * side), *zip(across, edge, strict=True), (side, 1.2 * side)]
        draw.polygon(below, fill=(*colour, int(dice.integers(80, 256))))
    return _turned(image, dice, 360) if _happens(dice, 0.5) else image


def _tiles(dice: Dice, side: int) -> Image.Image:
    """Return squares, discs, half squares or rounded squares in rows."""
    image = Image.new("RGB", (side, side))
    draw = ImageDraw.Draw(image)
    count, kind = int(dice.integers(3, 24)), int(dice.integers(0, 4))
    colours, size = _colours(dice, int(dice.integers(2, 6))), side / count
    for column in range(count):
        for row in range(count):
            box = (column * size, row * size, (column + 1) * size, (row + 1) * size)
            fill = colours[int(dice.integers(len(colours)))]
            draw.rectangle(box, fill=colours[0])
            if kind == 0:
                draw.rectangle(box, fill=fill)
            elif kind == 1:
                draw.ellipse(box, fill=fill)
            elif kind == 2:  # noqa: PLR2004 - the third of four kinds
                corner = (box[2], box[1 + 2 * int(dice.integers(2))])
                draw.polygon([box[:2], corner, (box[0], box[3])], fill=fill)
            else:
                draw.rounded_rectangle(box, radius=size / 4, fill=fill)
    return _turned(image, dice, 90) if _happens(dice, 0.4) else image


def _facets(dice: Dice, side: int) -> Image.Image:
    """Return triangles that meet at their edges, coloured as a blur is."""
    count = int(dice.integers(3, 14))
    places = np.stack(np.meshgrid(np.arange(count + 1), np.arange(count + 1)), -1) * side / count
    places = places + dice.normal(0, side / count / 4, places.shape)
    base = np.asarray(_blur(dice, side), float)
    image = Image.new("RGB", (side, side))
    draw = ImageDraw.Draw(image)
    for i in range(count):
        for j in range(count):
            for first in (places[i, j], places[i + 1, j + 1]):
                corners = np.stack([first, places[i + 1, j], places[i, j + 1]])
                x, y = np.clip(corners.mean(axis=0).astype(int), 0, side - 1)
                fill = _bytes(base[y, x] + dice.normal(0, 12))
                draw.polygon([tuple(one) for one in corners], fill=tuple(map(int, fill)))
    return image


def _noise(dice: Dice, side: int) -> Image.Image:
    count, depth = int(dice.integers(4, side)), int(dice.choice([1, 3]))
    small = np.broadcast_to(
        dice.integers(0, 255, (count, count, depth), np.uint8), (count, count, 3)
    )
    large = Image.fromarray(np.ascontiguousarray(small)).resize((side, side))
    return Image.blend(_gradient(dice, side), large, dice.uniform(0.05, 1))


def _rays(dice: Dice, side: int) -> Image.Image:
    """Return rays from a point, straight or bent."""
    rows, columns = np.mgrid[0:side, 0:side] / side
    angles = np.arctan2(rows - dice.uniform(-0.2, 1.2), columns - dice.uniform(-0.2, 1.2))
    bent = np.hypot(columns, rows) * dice.uniform(0, 30)
    return _painted(np.sin(angles * dice.integers(3, 40) + bent), _colours(dice, 3))


def _happens(dice: Dice, share: float) -> bool:
    return bool(dice.random() < share)


def _colours(dice: Dice, count: int) -> list[Colour]:
    """Return colours of hues that are near each other, or not so near."""
    hue, spread = dice.random(), dice.uniform(0.02, 0.5)
    found = []
    for _ in range(count):
        near = (hue + dice.uniform(-spread, spread)) % 1
        rgb = colorsys.hsv_to_rgb(near, dice.uniform(0.05, 1), dice.uniform(0.1, 1))
        found.append((int(255 * rgb[0]), int(255 * rgb[1]), int(255 * rgb[2])))
    return found


def _painted(heights: Floats, colours: list[Colour]) -> Image.Image:
    """Return heights HW as a picture: the lowest in the first colour, the highest in the last."""
    low, high = heights.min(), heights.max()
    share = (heights - low) / max(high - low, 1e-9)
    places, rgb = np.linspace(0, 1, len(colours)), np.array(colours, float)
    channels = [np.interp(share, places, rgb[:, channel]) for channel in range(3)]
    return Image.fromarray(_bytes(np.stack(channels, -1)))


def _turned(image: Image.Image, dice: Dice, most: int) -> Image.Image:
    """Return the middle of the picture, turned by up to so many degrees."""
    side = image.width
    turned = image.rotate(int(dice.integers(most)), Image.Resampling.BICUBIC)
    return turned.crop((side // 5, side // 5, side - side // 5, side - side // 5)).resize(
        image.size
    )


def _bytes(values: Floats) -> npt.NDArray[np.uint8]:
    return np.clip(values, 0, 255).astype(np.uint8)


SHAPES: Final = (_ellipse, _triangle, _rectangle, _stroke, _arc, _polygon)
# Shapes twice: they are the most manifold.
KINDS: Final[tuple[Callable[[Dice, int], Image.Image], ...]] = (
    *(_gradient, _blur, _shapes, _shapes, _waves, _tiles, _facets, _noise, _rays),
)
