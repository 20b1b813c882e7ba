"""RGBA drawings -> photographs of a sort: RGB in random scenes, whole batches at a time.

Shapes: B batch, C channels, H = W = the model's image size, S = the size of the drawings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg

OVERSAMPLE: Final = 2


@dataclass(frozen=True)
class Strength:
    """How wild the scenes are. Probabilities from 0 to 1, angles in degrees."""

    smallest: float
    largest: float
    degrees: float
    shift: float
    stretch: float
    colour: float
    grey: float
    outline: float
    cutout: float
    blur: float
    noise: float
    jpeg: float
    # So many are certain to stand on white; of the others it is a third.
    white: float = 0.0


TRAINING: Final = Strength(
    smallest=0.45,
    largest=1.05,
    degrees=25.0,
    shift=0.25,
    stretch=0.25,
    colour=0.45,
    grey=0.2,
    outline=0.5,
    cutout=0.15,
    blur=0.3,
    noise=0.04,
    jpeg=0.25,
)
# Of the second phase: drawings may also be larger than the frame.
FINISHING: Final = replace(TRAINING, largest=1.3, outline=0.6)
# Of the third phase, for some: nearly as it was drawn, on white.
PLAIN: Final = Strength(
    smallest=0.8,
    largest=1.1,
    degrees=5.0,
    shift=0.05,
    stretch=0.08,
    colour=0.15,
    grey=0.1,
    outline=0.0,
    cutout=0.0,
    blur=0.1,
    noise=0.01,
    jpeg=0.1,
    white=0.9,
)
# What "new renderings" means in the model card.
EVALUATION: Final = Strength(
    smallest=0.6,
    largest=1.05,
    degrees=15.0,
    shift=0.15,
    stretch=0.15,
    colour=0.2,
    grey=0.0,
    outline=0.0,
    cutout=0.0,
    blur=0.2,
    noise=0.02,
    jpeg=0.5,
)


def scenes(
    rgba_B4SS: Tensor,
    size: int,
    strength: Strength,
    dice: torch.Generator,
    behind: Tensor | None = None,
) -> Tensor:
    """Return B x 3 x size x size float in 0..1: each drawing somewhere on a random background.

    With `behind`, of that shape, on that.
    """
    B = len(rgba_B4SS)
    drawn = _place(rgba_B4SS.float() / 255, size, strength, dice)
    colour, alpha = drawn[:, :3], drawn[:, 3:]
    colour = colour / alpha.clamp(min=1e-3)
    colour = _outlined(_tinted(colour, strength, dice), alpha, strength, dice)
    given = behind is not None
    behind = _backgrounds(B, size, colour * alpha, dice) if behind is None else behind
    if strength.white and not given:
        behind = torch.maximum(behind, _chosen(B, strength.white, dice))
    image = colour * alpha + behind * (1 - alpha)
    image = _cut(_greyed(image, strength, dice), strength, dice)
    return _worn(image.clamp(0, 1), strength, dice)


def _uniform(shape: tuple[int, ...], low: float, high: float, dice: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=dice) * (high - low) + low


def _chosen(B: int, probability: float, dice: torch.Generator) -> Tensor:
    return (torch.rand(B, 1, 1, 1, generator=dice) < probability).float()


def _place(rgba_B4SS: Tensor, size: int, strength: Strength, dice: torch.Generator) -> Tensor:
    """Scale, turn, mirror and shift; premultiplied, drawn larger and averaged down."""
    B = len(rgba_B4SS)
    premultiplied = torch.cat([rgba_B4SS[:, :3] * rgba_B4SS[:, 3:], rgba_B4SS[:, 3:]], dim=1)
    scale = _uniform((B,), strength.smallest, strength.largest, dice)
    aspect = _uniform((B,), -strength.stretch, strength.stretch, dice).exp()
    angle = _uniform((B,), -strength.degrees, strength.degrees, dice) * torch.pi / 180
    mirror = torch.randint(2, (B,), generator=dice) * 2.0 - 1.0
    capacity = (strength.largest - scale).clamp(min=0) + strength.shift * 0.3
    shift_B2 = _uniform((B, 2), -1, 1, dice) * capacity[:, None]
    cos, sin = angle.cos(), angle.sin()
    wide, high = scale * aspect.sqrt() * mirror, scale / aspect.sqrt()
    # The grid asks, for each place of the scene, where in the drawing it comes from.
    matrix = torch.stack([cos / wide, sin / wide, -sin / high, cos / high], dim=1).view(B, 2, 2)
    offset = -(matrix @ shift_B2[:, :, None])
    grid = F.affine_grid(
        torch.cat([matrix, offset], dim=2),
        [B, 4, size * OVERSAMPLE, size * OVERSAMPLE],
        align_corners=False,
    )
    drawn = F.grid_sample(premultiplied, grid, align_corners=False)
    return F.avg_pool2d(drawn, OVERSAMPLE)


def _tinted(colour: Tensor, strength: Strength, dice: torch.Generator) -> Tensor:
    """Mix the channels a little, and change brightness, contrast and gamma."""
    B = len(colour)
    mix = torch.eye(3) + strength.colour * 0.5 * torch.randn(B, 3, 3, generator=dice)
    mix = mix / mix.sum(dim=2, keepdim=True).clamp(min=0.3)
    colour = torch.einsum("bij,bjhw->bihw", mix, colour).clamp(0, 1)
    spread = strength.colour
    gamma = _uniform((B, 1, 1, 1), -spread, spread, dice).exp()
    contrast = _uniform((B, 1, 1, 1), 1 - spread, 1 + spread, dice)
    bright = _uniform((B, 1, 1, 1), -0.5 * spread, 0.5 * spread, dice)
    return (((colour + 1e-4) ** gamma - 0.5) * contrast + 0.5 + bright).clamp(0, 1)


def _outlined(colour: Tensor, alpha: Tensor, strength: Strength, dice: torch.Generator) -> Tensor:
    """Draw dark lines along some drawings' edges, as other designs do, and flatten some colours."""
    B = len(colour)
    grey = colour.mean(dim=1, keepdim=True) * alpha + (1 - alpha)
    edges = F.max_pool2d(grey, 3, 1, 1) + F.max_pool2d(-grey, 3, 1, 1)
    rim = F.max_pool2d(alpha, 3, 1, 1) + F.max_pool2d(-alpha, 3, 1, 1)
    line = ((edges * 2.5).clamp(0, 1) + rim).clamp(0, 1) * _chosen(B, strength.outline, dice)
    levels = 4.0
    flat = _chosen(B, strength.outline * 0.5, dice)
    colour = flat * (colour * levels).round() / levels + (1 - flat) * colour
    return colour * (1 - line * _uniform((B, 1, 1, 1), 0.5, 1.0, dice))


def _backgrounds(B: int, size: int, drawn: Tensor, dice: torch.Generator) -> Tensor:
    """White, one colour, a gradient, smooth noise, or a blurred mixture of other drawings."""
    solid = torch.rand(B, 3, 1, 1, generator=dice).expand(B, 3, size, size)
    corner = torch.rand(B, 3, 2, 2, generator=dice)
    gradient = F.interpolate(corner, size=(size, size), mode="bilinear", align_corners=True)
    coarse = torch.rand(B, 3, 8, 8, generator=dice)
    clouds = F.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)
    others = drawn[torch.randperm(B, generator=dice)] + 0.5 * solid
    others = F.interpolate(F.avg_pool2d(others, size // 16), size=(size, size), mode="bilinear")
    white = torch.ones(B, 3, size, size)
    kinds = torch.stack([white, white, solid, gradient, clouds, others])
    pick = torch.randint(len(kinds), (B,), generator=dice)
    return kinds[pick, torch.arange(B)]


def _greyed(image: Tensor, strength: Strength, dice: torch.Generator) -> Tensor:
    grey = _chosen(len(image), strength.grey, dice)
    return grey * image.mean(dim=1, keepdim=True) + (1 - grey) * image


def _cut(image: Tensor, strength: Strength, dice: torch.Generator) -> Tensor:
    """Cover a rectangle of some images."""
    B, _, size, _ = image.shape
    centre = torch.rand(B, 2, 1, 1, generator=dice)
    half = _uniform((B, 2, 1, 1), 0.05, 0.2, dice)
    axis = torch.linspace(0, 1, size)
    rows = ((axis.view(1, size, 1) - centre[:, 0]).abs() < half[:, 0]).float()
    columns = ((axis.view(1, 1, size) - centre[:, 1]).abs() < half[:, 1]).float()
    hole = (rows * columns)[:, None] * _chosen(B, strength.cutout, dice)
    return image * (1 - hole) + hole * torch.rand(B, 3, 1, 1, generator=dice)


def _worn(image: Tensor, strength: Strength, dice: torch.Generator) -> Tensor:
    """Blur, noise and JPEG, each on some images."""
    B, _, size, _ = image.shape
    soft = F.interpolate(F.avg_pool2d(image, 2), size=(size, size), mode="bilinear")
    blurred = _chosen(B, strength.blur, dice)
    image = blurred * soft + (1 - blurred) * image
    level = _uniform((B, 1, 1, 1), 0, strength.noise, dice)
    image = (image + level * torch.randn(image.shape, generator=dice)).clamp(0, 1)
    for number in range(int(B * strength.jpeg)):
        quality = int(torch.randint(35, 95, (), generator=dice))
        body = encode_jpeg((image[number] * 255).byte(), quality)
        image[number] = decode_jpeg(body, ImageReadMode.RGB).float() / 255
    return image
