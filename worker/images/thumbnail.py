"""Embedding and thumbnail of an image -> text for JSON, for its result.

Shapes: D embedding dimensions, C colour channels, H height, W width.
"""

from __future__ import annotations

import base64
from io import BytesIO
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

# A page of thousands stays some tens of megabytes, and faces can still be recognised.
_JPEG_QUALITY: Final = 70


def embedding_text(embedding_D: npt.NDArray[np.float32]) -> str:
    """Return the embedding as float16, little-endian, in base64: 2.7 characters a dimension."""
    return base64.b64encode(embedding_D.astype("<f2").tobytes()).decode()


def thumbnail(pixels: npt.NDArray[np.uint8], longest_px: int) -> str:
    """Return pixels, HWC or HW if grey, as a JPEG of at most that width and height, in base64."""
    image = Image.fromarray(pixels)
    image.thumbnail((longest_px, longest_px))
    body = BytesIO()
    image.save(body, "JPEG", quality=_JPEG_QUALITY)
    return base64.b64encode(body.getvalue()).decode()
