"""RGBA drawings -> maps of their flat regions, by which augment.py draws them anew.

Shapes: N drawings, S their size, P = S x S pixels, K regions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import drawings
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

REGIONS: Final = 24
# Of a drawing in one ink, region 1 is the ink, and each space that it encloses is another.
INK: Final = 1
COLOURS: Final = 7
_ROUNDS: Final = 8
_BATCH: Final = 64
_SMALLEST: Final = 12
_BLACK: Final = 0.15


def load(design: str, cache: Path) -> Tensor:
    """Return the maps of a design's drawings, made once into `cache`."""
    file = cache / f"{design}-{drawings.SIZE}-regions.npz"
    if not file.exists():
        pixels = torch.from_numpy(drawings.load(design, cache).pixels).permute(0, 3, 1, 2)
        np.savez_compressed(file, maps=regions_of(pixels).numpy())
    with np.load(file) as kept:
        return torch.from_numpy(kept["maps"])


def regions_of(rgba_N4SS: Tensor) -> Tensor:
    """Return N x S x S uint8: 0 outside of the drawing, 1 to REGIONS - 1 its regions."""
    parts = torch.split(rgba_N4SS, _BATCH)
    return torch.cat([_regions(part.float() / 255) for part in parts])


def _regions(rgba_N4SS: Tensor) -> Tensor:
    colour, alpha = rgba_N4SS[:, :3], rgba_N4SS[:, 3]
    inside = alpha > 0.5  # noqa: PLR2004
    brightness = (colour.amax(dim=1) * inside).flatten(1).amax(dim=1)
    by_hole, by_colour = _by_hole(inside), _by_colour(colour, inside)
    return torch.where((brightness < _BLACK)[:, None, None], by_hole, by_colour).byte()


def _by_hole(ink_NSS: Tensor) -> Tensor:
    """Number the spaces that the ink encloses: each takes the largest pixel number in it."""
    N, S, _ = ink_NSS.shape
    free = (~ink_NSS).float()[:, None]
    numbers = torch.arange(1, S * S + 1, dtype=torch.float32).view(1, 1, S, S) * free
    # The edge of the sheet has the largest number of all: what it reaches is outside.
    edge = torch.zeros(S, S)
    edge[[0, -1], :] = edge[:, [0, -1]] = S * S + 1.0
    numbers = torch.maximum(numbers, edge * free)
    while True:
        # A step in four directions: ink that touches at a corner encloses.
        wide = F.max_pool2d(numbers, (1, 3), 1, (0, 1))
        grown = torch.maximum(wide, F.max_pool2d(numbers, (3, 1), 1, (1, 0))) * free
        if torch.equal(grown, numbers):
            break
        numbers = grown
    found = torch.zeros(N, S, S)
    for n in range(N):
        values, inverse, counts = torch.unique(
            numbers[n, 0], return_inverse=True, return_counts=True
        )
        sizes = torch.where((values == 0) | (values > S * S), 0, counts)
        ranks = torch.zeros(len(values))
        largest = sizes.argsort(descending=True)[: REGIONS - 1 - INK]
        largest = largest[sizes[largest] >= _SMALLEST]
        ranks[largest] = torch.arange(INK + 1.0, INK + 1 + len(largest))
        found[n] = ranks[inverse]
    return torch.where(ink_NSS, float(INK), found)


def _by_colour(colour_N3SS: Tensor, inside_NSS: Tensor) -> Tensor:
    """Number the drawing's main colours, by k-means from colours far apart, and smooth the map."""
    N, _, S, _ = colour_N3SS.shape
    points_NP3 = colour_N3SS.flatten(2).transpose(1, 2)
    weight_NP = inside_NSS.flatten(1).float()
    centres = points_NP3.mul(weight_NP[..., None]).sum(1, keepdim=True)
    centres = centres / weight_NP.sum(1).clamp(min=1)[:, None, None]
    for _ in range(COLOURS - 1):
        far = torch.cdist(points_NP3, centres).amin(dim=2) * weight_NP
        centres = torch.cat([centres, points_NP3[torch.arange(N), far.argmax(dim=1)][:, None]], 1)
    for _ in range(_ROUNDS):
        nearest = torch.cdist(points_NP3, centres).argmin(dim=2)
        share = F.one_hot(nearest, COLOURS).float() * weight_NP[..., None]
        sums = share.transpose(1, 2) @ points_NP3
        counts = share.sum(1)[..., None]
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    share = F.one_hot(torch.cdist(points_NP3, centres).argmin(dim=2), COLOURS).float()
    maps = (share * weight_NP[..., None]).transpose(1, 2).view(N, COLOURS, S, S)
    smooth = F.avg_pool2d(maps, 3, 1, 1)
    return (smooth.argmax(dim=1) + 1.0) * inside_NSS
