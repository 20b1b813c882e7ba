"""Drawings and photographs -> pictures to learn from, of the network's size.

Shapes: B batch, S the side of a drawing, H = W = the side of the network's images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

import augment
import drawings
import numpy as np
import photographs
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg

# The drawings' own sides: the product's examples and small emoji are as coarse as the first.
RASTERS: Final = (96, 160)
# Scenes are painted at one of these sides, and then brought to the network's.
SIDES: Final = (96, 128, 192, 260)
BATCH: Final = 128
# Shares of the pictures of each strength.
STRENGTHS: Final = (
    (augment.EVALUATION, 0.45),
    (augment.FINISHING, 0.35),
    (augment.PLAIN, 0.2),
)
_JPEG_SHARE: Final = 0.4
_CROP: Final = 352
NONE: Final = drawings.NONE


class Drawn(NamedTuple):
    """N drawings: RGBA N4SS for each raster; the object and the category of each, or NONE."""

    rgba: dict[int, Tensor]
    object_ids_N: Tensor
    category_ids_N: Tensor


def read(designs: Sequence[str], cache: Path, every: int = 1) -> Drawn:
    """Return the drawings of several designs, one after another, or each n-th of them."""
    loaded = {side: [drawings.load(one, cache, side) for one in designs] for side in RASTERS}
    pixels = {side: np.concatenate([one.pixels for one in of]) for side, of in loaded.items()}
    first = loaded[RASTERS[0]]
    return Drawn(
        {side: torch.from_numpy(of[::every]).permute(0, 3, 1, 2) for side, of in pixels.items()},
        torch.from_numpy(np.concatenate([one.object_ids for one in first])[::every]),
        torch.from_numpy(np.concatenate([one.category_ids for one in first])[::every]),
    )


def scenes(
    drawn: Drawn,
    views: int,
    side: int,
    dice: torch.Generator,
    grounds_M3HW: Tensor | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of scenes B3HH in 0..1 and which drawings they show, `views` of each.

    With `grounds_M3HW`, bytes, each stands on one of those.
    """
    device = dice.device
    choice = np.random.default_rng(0)
    for _ in range(views):
        order_N = torch.randperm(len(drawn.object_ids_N), generator=dice, device=device).cpu()
        for picked_B in _batches(order_N):
            rgba = drawn.rgba[int(choice.choice(list(drawn.rgba)))]
            number = int(choice.choice(len(STRENGTHS), p=[share for _, share in STRENGTHS]))
            strength = replace(STRENGTHS[number][0], jpeg=0.0)
            size = int(choice.choice(SIDES))
            behind = None
            if grounds_M3HW is not None:
                some = choice.integers(0, len(grounds_M3HW), len(picked_B))
                picks = torch.from_numpy(some).to(grounds_M3HW.device)
                behind = fitted(grounds_M3HW[picks].to(device).float() / 255, size)
            painted = augment.scenes(rgba[picked_B].to(device), size, strength, dice, behind)
            if choice.random() < _JPEG_SHARE:
                painted = stored(painted, int(choice.integers(35, 95)))
            yield fitted(painted, side), picked_B


def cut_outs(
    photos: list[photographs.Photograph], views: int, side: int, dice: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield parts of photographs, and parts laid on a ground of one colour or of another photo."""
    device = dice.device
    choice = np.random.default_rng(1)
    for _ in range(views):
        order_N = torch.randperm(len(photos), generator=dice, device=device).cpu()
        for picked_B in _batches(order_N):
            parts = [_part(photos[int(n)], choice).to(device) for n in picked_B]
            batch = torch.stack(parts)
            batch = _laid(batch, choice, device)
            batch = _lit(batch, choice)
            if choice.random() < _JPEG_SHARE:
                batch = stored(batch, int(choice.integers(50, 95)))
            yield fitted(batch, side), picked_B


def _batches(numbers_N: Tensor) -> list[Tensor]:
    return [numbers_N[start : start + BATCH] for start in range(0, len(numbers_N), BATCH)]


def grounds(photos: list[photographs.Photograph], views: int, device: torch.device) -> Tensor:
    """Return parts of photographs to lay drawings on, bytes M3HW, `views` of each."""
    choice = np.random.default_rng(2)
    parts = [_part(photo, choice) for photo in photos for _ in range(views)]
    return torch.stack([(part * 255).byte() for part in parts]).to(device)


def _part(photo: photographs.Photograph, choice: np.random.Generator) -> Tensor:
    """Return a square or squashed part of a photograph, mirrored or not, 3 x _CROP x _CROP."""
    width, height = photo.image.size
    share = choice.uniform(0.55, 1.0)
    wide, high = share * width, share * height
    if choice.random() < 0.5:  # noqa: PLR2004
        wide = high = min(wide, high)
    left, top = choice.uniform(0, width - wide), choice.uniform(0, height - high)
    box = (left, top, left + wide, top + high)
    part = np.asarray(photo.image.resize((_CROP, _CROP), box=box))
    if choice.random() < 0.5:  # noqa: PLR2004
        part = part[:, ::-1]
    return torch.from_numpy(part.copy()).permute(2, 0, 1).float() / 255


def _laid(batch: Tensor, choice: np.random.Generator, device: torch.device) -> Tensor:
    """Let a third of the parts stand as soft ellipses on another ground."""
    B, _, side, _ = batch.shape
    axis = torch.linspace(-1, 1, side, device=device)
    power = torch.tensor(choice.uniform(2, 6, B), device=device).float().view(B, 1, 1)
    reach = torch.tensor(choice.uniform(0.6, 0.95, B), device=device).float().view(B, 1, 1)
    far = (axis.abs().view(1, 1, side) / reach) ** power + (
        axis.abs().view(1, side, 1) / reach
    ) ** power
    inside = ((1.02 - far) * 40).clamp(0, 1)[:, None]
    colour = torch.tensor(choice.uniform(0, 1, (B, 3, 1, 1)), device=device).float()
    colour = torch.where(colour.mean(dim=1, keepdim=True) > 0.5, torch.ones_like(colour), colour)  # noqa: PLR2004
    other = batch.roll(1, 0)
    pick = torch.tensor(choice.integers(0, 9, B), device=device).view(B, 1, 1, 1)
    ground = torch.where(pick == 0, other, colour.expand_as(batch))
    mask = torch.where(pick < 3, inside, torch.ones_like(inside))  # noqa: PLR2004
    return batch * mask + ground * (1 - mask)


def _lit(batch: Tensor, choice: np.random.Generator) -> Tensor:
    """Change brightness and contrast of each picture."""
    B = len(batch)
    gain, bright = (
        torch.tensor(choice.uniform(low, high, (B, 1, 1, 1)), device=batch.device).float()
        for low, high in ((0.75, 1.25), (-0.1, 0.1))
    )
    return ((batch - 0.5) * gain + 0.5 + bright).clamp(0, 1)


def stored(images: Tensor, quality: int) -> Tensor:
    """Return the pictures as they come back from a JPEG."""
    bodies = encode_jpeg(list((images * 255).byte().cpu()), quality)
    back = [decode_jpeg(body.cpu(), ImageReadMode.RGB) for body in bodies]
    return torch.stack(back).to(images.device).float() / 255


def fitted(images: Tensor, side: int) -> Tensor:
    """Return the pictures at the network's size, in whole grey levels."""
    shape = (side, side)
    scaled = F.interpolate(images, shape, mode="bicubic", antialias=True, align_corners=False)
    return (scaled.clamp(0, 1) * 255).round() / 255
