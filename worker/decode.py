"""Bytes -> pixels, uint8 CHW. Rejects what is not an image; knows nothing of queues.

Shapes: C colour channels (red, green, blue), H height, W width.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from io import BytesIO
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from worker.colour import flatten, upright
from worker.errors import (
    BrokenImageError,
    ImageError,
    NotAnImageError,
    TooManyPixelsError,
    TruncatedError,
)

if TYPE_CHECKING:
    from worker.models.artifact import Preprocessing

Pixels = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]

# Raster formats that people keep pictures in; MPO comes with JPEG. Refused: EPS, which Pillow hands
# to Ghostscript; and fonts, films and stubs.
FORMATS: Final = (
    *("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF", "JPEG2000", "PPM", "ICO", "ICNS"),
    *("PSD", "QOI", "DDS", "SGI", "PCX", "TGA"),
)
_FILTERS: Final = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# Fast mode: a box filter may do the rest of the reduction above twice the size wanted.
_FAST_GAP: Final = 2
# Times the size wanted: longer ones are cut before they are resized.
_LONGEST_STRIP: Final = 8
# What Pillow's decoders raise on hostile input: found by fuzzing them, and by reading them.
_DECODER_ERRORS: Final = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError),
    *(AttributeError, AssertionError, NotImplementedError, RuntimeError, MemoryError),
    *(struct.error, zlib.error),
)
_CUT_OFF: Final = ("truncated", "not enough image data", "premature end", "no more images")
_PREFIX_BYTES: Final = 16
_RIFF_HEADER_BYTES: Final = 8
_WORDS_CHARS: Final = 120


def set_up(max_pixels: int) -> None:
    """Prepare Pillow, once for the process: its plugins, its own limit and its warnings.

    `decode` checks the header itself; Pillow's limit is for images inside images, such as the PNG
    in an icon. A warning is about one image's oddity and must never become an error.
    """
    Image.init()
    Image.MAX_IMAGE_PIXELS = max_pixels
    warnings.filterwarnings("ignore", module=r"PIL\.")


def decode(data: bytes, spec: Preprocessing, *, max_pixels: int, fast: bool = False) -> Pixels:
    """Return the first frame at the model's size: uint8, CHW, C-contiguous.

    Exact mode equals `image.convert("RGB").resize(...)` to the bit where an image is opaque and
    upright; fast mode lets JPEG's own scaling and a box filter do the coarse part.

    Raises:
        ImageError: of stage `decode`.
    """
    try:
        with _open(data) as image:
            if image.width * image.height > max_pixels:
                raise TooManyPixelsError(image.size, max_pixels)
            if fast:
                _draft(image, spec)
            image.load()
            return fit(flatten(upright(image)), spec, fast=fast)
    except Image.DecompressionBombError as e:
        raise TooManyPixelsError(None, max_pixels) from e
    except _DECODER_ERRORS as e:
        raise _explain(e, data) from e


def _open(data: bytes) -> Image.Image:
    """Read the header. Unlike `Image.open`, tell a damaged header from a file that is no image.

    Its limit on pixels is left out too: that one knows the number of pixels, but not width and
    height, which a person would rather read.
    """
    Image.init()  # Free after the first time; `set_up` may not have been called, as in a script.
    prefix = data[:_PREFIX_BYTES].ljust(_PREFIX_BYTES, b"\0")
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        # A string would say that this Pillow was built without the format.
        if accept and accept(prefix) is not True:
            continue
        try:
            return factory(BytesIO(data), "")
        except _DECODER_ERRORS as e:
            # A format without a signature is tried on everything: its refusal says nothing.
            if accept:
                raise _explain(e, data, f"it begins like {name}, but its header is damaged") from e
    raise NotAnImageError


def _draft(image: Image.Image, spec: Preprocessing) -> None:
    """Let a JPEG decode at an eighth, a quarter or half its size, if that leaves enough."""
    side = _FAST_GAP * max(spec.height, spec.width, spec.edge or 0)
    image.draft(None, (side, side))


def fit(image: Image.Image, spec: Preprocessing, *, fast: bool = False) -> Pixels:
    """Return an RGB image at the model's size: uint8, CHW, C-contiguous."""
    wanted, gap = (spec.width, spec.height), _FAST_GAP if fast else None
    kernel = _FILTERS[spec.interpolation]
    if spec.resize == "squash":
        fitted = image.resize(wanted, kernel, reducing_gap=gap)
    elif max(scaled := _scaled(image.size, spec)) <= _LONGEST_STRIP * max(wanted):
        left, top = (scaled[0] - spec.width) // 2, (scaled[1] - spec.height) // 2
        whole = image.resize(scaled, kernel, reducing_gap=gap)
        fitted = whole.crop((left, top, left + spec.width, top + spec.height))
    else:
        box = _cut(image.size, scaled, wanted)
        fitted = image.resize(wanted, kernel, box=box, reducing_gap=gap)
    pixels_HWC = np.asarray(fitted.convert("RGB"))
    return np.ascontiguousarray(pixels_HWC.transpose(2, 0, 1))


def _cut(size: tuple[int, int], scaled: tuple[int, int], wanted: tuple[int, int]) -> Box:
    """Return the part of a strip that remains after resizing by the shortest edge and cropping.

    Resizing that part alone gives the same picture, if not always the last grey level, and a strip
    of 1 x 1,000,000 does not become one of 224 x 224,000,000 on the way. Rounding is that of CLIP's
    image processor: both the long edge and the margin are rounded down.
    """
    width, height = size
    left, top = (scaled[0] - wanted[0]) // 2, (scaled[1] - wanted[1]) // 2
    across, down = width / scaled[0], height / scaled[1]
    return (
        left * across,
        top * down,
        min(width, (left + wanted[0]) * across),
        min(height, (top + wanted[1]) * down),
    )


def _scaled(size: tuple[int, int], spec: Preprocessing) -> tuple[int, int]:
    """Return width and height before the crop: just enough for it, or more if `edge` says so."""
    width, height = size
    edge = spec.edge or 0
    if spec.width * height >= spec.height * width:
        across = max(spec.width, edge)
        return across, max(spec.height, height * across // width)
    down = max(spec.height, edge)
    return max(spec.width, width * down // height), down


def _explain(error: Exception, data: bytes, sentence: str = "") -> ImageError:
    words = str(error).lower()[:_WORDS_CHARS]
    if isinstance(error, MemoryError):
        return BrokenImageError("the image needs more memory than there is")
    if isinstance(error, EOFError) or any(hint in words for hint in _CUT_OFF) or _is_short(data):
        return TruncatedError()
    return BrokenImageError(sentence or f"{BrokenImageError.sentence}: {words}")


def _is_short(data: bytes) -> bool:
    """Whether a RIFF file (WebP) has fewer bytes than it says; its decoder does not tell."""
    stated = int.from_bytes(data[4:_RIFF_HEADER_BYTES], "little")
    return data.startswith(b"RIFF") and len(data) < stated + _RIFF_HEADER_BYTES
