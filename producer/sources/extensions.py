"""Which files are images, by their names."""

from __future__ import annotations

import os
from typing import Final

# What Pillow reads and people keep; a file named on its own is taken whatever its ending.
IMAGE_ENDINGS: Final = frozenset(
    [
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
        *(".avif", ".jp2", ".ico", ".ppm", ".pgm", ".tga"),
    ]
)


def is_image(name: str) -> bool:
    """Whether a name ends like an image's."""
    return os.path.splitext(name)[1].lower() in IMAGE_ENDINGS
