"""Which files are images, by their names."""

from __future__ import annotations

import os
from typing import Final

# What people keep pictures in; a file named on its own is taken whatever its ending. Those of
# telephones (HEIC) cannot be read, and are not passed over in silence: their records say so.
IMAGE_ENDINGS: Final = frozenset(
    [
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
        *(".avif", ".jp2", ".j2k", ".jpf", ".jpx", ".ico", ".pbm", ".pgm", ".pnm", ".ppm"),
        *(".psd", ".tga", ".heic", ".heif"),
    ]
)


def is_image(name: str) -> bool:
    """Whether a name ends like an image's."""
    return os.path.splitext(name)[1].lower() in IMAGE_ENDINGS
