"""Upright pixels of any size -> the model's size. For decode.py.

Shapes: C colour channels (red, green, blue), X these and a byte without a meaning, H height, W
width.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image

from worker.images.image_memory import shown

if TYPE_CHECKING:
    from worker.artifact.manifest import Preprocessing

Pixels = npt.NDArray[np.uint8]
Size = tuple[int, int]
Box = tuple[float, float, float, float]

_FILTERS: Final = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# Those of torch, which image processors of transformers use as well: the same to one grey level,
# and some nine times as fast on a large image.
_FAST_FILTERS: Final = frozenset({"bilinear", "bicubic"})
# Times the size wanted: longer ones are cut before they are resized.
_LONGEST_STRIP: Final = 8

# Pillow's pixels are read-only, and nothing writes to them.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


def fit(pixels: Pixels, spec: Preprocessing) -> Pixels:
    """Return pixels, HWC or HWX, or HW if grey, at the model's size: uint8, CHW, C-contiguous."""
    height, width = pixels.shape[:2]
    wanted = (spec.width, spec.height)
    if spec.resize == "squash":
        fitted = _resized(pixels, wanted, spec)
    elif max(scaled := _scaled((width, height), spec)) <= _LONGEST_STRIP * max(wanted):
        left, top = _margins(scaled, spec)
        whole = _resized(pixels, scaled, spec)
        fitted = whole[top : top + spec.height, left : left + spec.width]
    else:
        box = _cut((width, height), scaled, spec)
        strip = Image.fromarray(shown(pixels)).resize(wanted, _FILTERS[spec.interpolation], box=box)
        fitted = np.asarray(strip)
    if fitted.ndim == 2:  # noqa: PLR2004 - grey: three equal channels
        return np.repeat(fitted[None], 3, axis=0)
    return np.ascontiguousarray(shown(fitted).transpose(2, 0, 1))


def _resized(pixels: Pixels, size: Size, spec: Preprocessing) -> Pixels:
    """Return all of it at a width and height, with channels as they were."""
    if spec.interpolation not in _FAST_FILTERS:
        image = Image.fromarray(shown(pixels)).resize(size, _FILTERS[spec.interpolation])
        return np.asarray(image)
    grey = pixels.ndim == 2  # noqa: PLR2004
    # Seen as a batch of one, its channels last in memory: the layout that the fast kernel is for.
    batch_1CHW = torch.from_numpy(pixels[:, :, None] if grey else pixels).permute(2, 0, 1)[None]
    scaled_1CHW = F.interpolate(
        batch_1CHW, size=(size[1], size[0]), mode=spec.interpolation, antialias=True
    )
    scaled_HWC: Pixels = scaled_1CHW[0].permute(1, 2, 0).numpy()
    return scaled_HWC[:, :, 0] if grey else scaled_HWC


def _margins(scaled: Size, spec: Preprocessing) -> tuple[int, int]:
    """Return how many pixels are left of the cut, and how many above.

    Image processors of transformers round down, torchvision's CenterCrop (timm) to even numbers.
    """
    across, down = scaled[0] - spec.width, scaled[1] - spec.height
    if spec.margin == "even":
        return round(across / 2), round(down / 2)
    return across // 2, down // 2


def _cut(size: Size, scaled: Size, spec: Preprocessing) -> Box:
    """Return the part of a strip that remains after resizing by the shortest edge and cropping.

    Resizing that part alone gives the same picture, if not always the last grey level, and a strip
    of 1 x 1,000,000 does not become one of 224 x 224,000,000 on the way.
    """
    width, height = size
    left, top = _margins(scaled, spec)
    across, down = width / scaled[0], height / scaled[1]
    return (
        left * across,
        top * down,
        min(width, (left + spec.width) * across),
        min(height, (top + spec.height) * down),
    )


def _scaled(size: Size, spec: Preprocessing) -> Size:
    """Return width and height before the crop: just enough for it, or more if `edge` says so."""
    width, height = size
    edge = spec.edge or 0
    if spec.width * height >= spec.height * width:
        across = max(spec.width, edge)
        return across, max(spec.height, height * across // width)
    down = max(spec.height, edge)
    return max(spec.width, width * down // height), down
