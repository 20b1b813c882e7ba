"""Synthetic pictures for where there are no photographs: with edges, gradients and noise."""

from __future__ import annotations

from functools import cache
from io import BytesIO
from typing import Final

import numpy as np
from PIL import Image

# Of about 4 million pixels, lying and standing: sizes, width of a coarse patch, JPEG quality.
_PHOTOGRAPHS: Final = (
    ((2464, 1648), 20, 90),
    ((1648, 2464), 60, 75),
    ((2560, 1600), 160, 95),
    ((2272, 1704), 8, 85),
)


def picture(size: tuple[int, int], seed: int, patch: int = 20) -> Image.Image:
    """Return a picture of so many pixels, width and height, the same for the same seed."""
    width, height = size
    dice = np.random.default_rng(seed)
    coarse = dice.integers(0, 256, (height // patch, width // patch, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    grain = dice.integers(-12, 13, (height, width, 3), dtype=np.int16)
    return Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))


@cache
def photographs() -> tuple[bytes, ...]:
    """Return JPEGs of camera size, always the same."""
    found = []
    for seed, (size, patch, quality) in enumerate(_PHOTOGRAPHS):
        buffer = BytesIO()
        picture(size, seed, patch).save(buffer, "JPEG", quality=quality)
        found.append(buffer.getvalue())
    return tuple(found)
