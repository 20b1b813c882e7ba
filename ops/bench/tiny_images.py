"""Small JPEGs, which cost next to nothing to decode."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from PIL import Image

SIZE: Final = (64, 64)
_FILES: Final = 16


def small_images(directory: Path, count: int) -> list[str]:
    """Return so many paths of small JPEGs; a few files, over and over."""
    files = [directory / f"{number}.jpg" for number in range(_FILES)]
    for number, file in enumerate(files):
        picture = Image.effect_mandelbrot(SIZE, (-2, -1.2, 1, 1.2), 20 + number)
        picture.convert("RGB").save(file)
    return [str(files[number % len(files)]) for number in range(count)]
