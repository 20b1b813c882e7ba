"""Pillow image of any mode -> `L` or `RGB`, 8 bits, opaque; and pixels upright. For decode.py.

Greyscale stays `L`: resizing one band and copying it to three gives what resizing three would, at a
third of the price.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from io import BytesIO
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageCms

Pixels = npt.NDArray[np.uint8]

# Of arrays with rows first, then columns.
_TURNS: Final[dict[int, Callable[[Pixels], Pixels]]] = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
    8: np.rot90,
}
# What a mangled EXIF block makes Pillow raise. The picture itself may be perfectly sound.
_BAD_EXIF: Final = (SyntaxError, ValueError, KeyError, IndexError, TypeError, OSError, struct.error)
_TIFF_BITS_PER_SAMPLE: Final = 258
_WHOLE_RANGES: Final = (1, 255, 65_535)


def upright(pixels: Pixels, image: Image.Image) -> Pixels:
    """Return the pixels, HWC or HW, as the EXIF orientation of their image says."""
    try:
        orientation: object = image.getexif().get(ExifTags.Base.Orientation)
    except _BAD_EXIF:
        return pixels
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def tame_xmp(image: Image.Image) -> None:
    """Let XMP be bytes, as Pillow expects them: some TIFFs have it as text, or as numbers."""
    xmp: object = image.info.get("xmp", b"")
    if isinstance(xmp, str):
        image.info["xmp"] = xmp.encode()
    elif not isinstance(xmp, bytes):
        del image.info["xmp"]


def flatten(image: Image.Image) -> Image.Image:
    """Return the image as `L` or `RGB`, whatever is transparent in it on white."""
    if image.mode.startswith("I;16"):
        return _from_uint16(image)
    if image.mode in {"I", "F"}:
        return _from_numbers(np.asarray(image))
    if image.has_transparency_data:
        return _on_white(image.convert("RGBA"))
    if image.mode == "CMYK":
        return _from_cmyk(image)
    if image.mode in {"L", "RGB"}:
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _on_white(rgba: Image.Image) -> Image.Image:
    white = Image.new("RGB", rgba.size, "white")
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def _from_uint16(image: Image.Image) -> Image.Image:
    """Keep the upper 8 of the bits that are in use: 16, or 12 in some TIFFs."""
    tags: Any = getattr(image, "tag_v2", {})
    bits = int(tags.get(_TIFF_BITS_PER_SAMPLE, (16,))[0])
    return Image.fromarray((np.asarray(image) >> (bits - 8)).astype(np.uint8))


def _from_numbers(values: npt.NDArray[Any]) -> Image.Image:
    """Scale 32-bit integers or floats, which do not say what white is, to 8 bits.

    White is the least of 1, 255 and 65535 that no value exceeds; a range beyond those, or below
    zero, is stretched from its least value to its greatest. What is not a number is black.
    """
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    if low >= 0 and (white := next((top for top in _WHOLE_RANGES if high <= top), None)):
        low, high = 0.0, float(white)
    scaled = (values.astype(np.float32) - low) * (255 / (high - low or 1.0))
    tame = np.nan_to_num(scaled, nan=0, posinf=255, neginf=0)
    return Image.fromarray(np.rint(tame).clip(0, 255).astype(np.uint8))


def _from_cmyk(image: Image.Image) -> Image.Image:
    """Convert by the embedded profile if it is sound: Pillow alone knows nothing of the inks."""
    profile = image.info.get("icc_profile")
    if profile:
        try:
            inks = ImageCms.ImageCmsProfile(BytesIO(profile))
            screen = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, inks, screen, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            converted = None  # A damaged profile, or one for another kind of image.
        if converted is not None:
            return converted
    return image.convert("RGB")
