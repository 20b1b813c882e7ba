"""Bytes -> pixels at the model's size. Rejects what is not an image; knows nothing of queues.

Shapes: C colour channels (red, green, blue), H height, W width.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from io import BytesIO
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from worker.contract.settings import IMAGE_FORMATS, MORE_FORMATS, SLOW
from worker.errors import (
    BrokenImageError,
    DecodeMemoryError,
    ImageError,
    NotAnImageError,
    TooManyPixelsError,
    TruncatedError,
)
from worker.images.colour import flatten, tame_xmp, upright
from worker.images.image_memory import keep_in_one_piece, pixels_of, shown
from worker.images.resize import fit
from worker.images.structure import check_structure
from worker.images.structure.jpeg import has_many_scans

if TYPE_CHECKING:
    from worker.artifact.manifest import Preprocessing

Pixels = npt.NDArray[np.uint8]


class Semaphore(Protocol):
    """How many pixels may be in memory at once."""

    def acquire(self, amount: int) -> AbstractContextManager[None]:
        """Wait until so many are free and hold them."""


# Fast mode: a JPEG may be decoded at a fraction of its size, but at twice the size wanted or more.
_FAST_GAP: Final = 2
_FRACTIONS: Final = (1, 2, 4, 8)
# What Pillow's decoders raise on hostile input: found by fuzzing them, and by reading them.
_DECODER_ERRORS: Final = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError),
    *(AttributeError, AssertionError, NotImplementedError, RuntimeError, MemoryError),
    *(struct.error, zlib.error),
)
_CUT_OFF: Final = ("truncated", "not enough image data", "premature end", "no more images")
# Pillow's limits of what inflates beside the pixels, by the names that it gives them.
_BLOATED: Final = ("max_text_chunk", "max_text_memory", "text chunks")
# An ISO file says what it is: these are pictures of telephones, whose codec is not here.
_ISO_FILE: Final = b"ftyp"
_HEIC_BRANDS: Final = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"})
_PREFIX_BYTES: Final = 16
_RIFF_HEADER_BYTES: Final = 8
_DETAIL_CHARS: Final = 120


def set_up(max_pixels: int) -> None:
    """Prepare Pillow, once for the process: its plugins, its own limit and its warnings.

    `decode` checks the header itself; Pillow's limit is for images inside images, such as the PNG
    in an icon. A warning is about one image's oddity and must never become an error.
    """
    Image.init()
    Image.MAX_IMAGE_PIXELS = max_pixels
    keep_in_one_piece(max_pixels)
    warnings.filterwarnings("ignore", module=r"PIL\.")


def decode(
    data: bytes,
    spec: Preprocessing,
    *,
    max_pixels: int,
    formats: Sequence[str] = IMAGE_FORMATS,
    fast: bool = False,
    jpeg_max_side: int = 0,
    semaphore: Semaphore | None = None,
    look: Callable[[Pixels], None] = lambda _: None,
) -> Pixels:
    """Return the first frame at the model's size: uint8, CHW, C-contiguous.

    `look` is shown the frame before it is brought to that size: upright, HWC, or HW if it is grey.

    Only the `formats` named are read, by Pillow's names for them; see `IMAGE_FORMATS`.

    A JPEG with a side of more than `jpeg_max_side` pixels, if that is not 0, is scaled down by a
    half, a quarter or an eighth while it is decoded, in either mode. While pixels are in memory
    they are acquired from the `semaphore`.

    Exact mode gives what Pillow's `convert("RGB")` and torchvision's antialiased resizing give
    where an image is opaque and upright; fast mode lets a JPEG's own scaling do the coarse part.

    Raises:
        ImageError: of stage `decode`.
    """
    try:
        with _open(data, formats) as image:
            if image.width * image.height > max_pixels:
                raise TooManyPixelsError(image.size, max_pixels)
            whole_size = image.size
            if jpeg_max_side:
                _scale_down(image, jpeg_max_side)
            if fast:
                _draft(image, spec)
            pixels = _pixels_in_memory(image, whole_size, data)
            tame_xmp(image)
            with semaphore.acquire(pixels) if semaphore else nullcontext():
                image.load()
                whole = upright(pixels_of(flatten(image)), image)
                look(shown(whole))
                return fit(whole, spec)
    except Image.DecompressionBombError as e:
        raise TooManyPixelsError(None, max_pixels) from e
    except _DECODER_ERRORS as e:
        raise _explain(e, data) from e


def _open(data: bytes, formats: Sequence[str]) -> Image.Image:
    """Read the header. Unlike `Image.open`, distinguish a damaged header from what is no image.

    Its limit on pixels is left out too: that one knows the number of pixels, but not width and
    height, which a person would rather read.
    """
    Image.init()  # Free after the first time; `set_up` may not have been called, as in a script.
    prefix = data[:_PREFIX_BYTES].ljust(_PREFIX_BYTES, b"\0")
    for name in (*IMAGE_FORMATS, *MORE_FORMATS):
        if name == SLOW:
            continue
        factory, accept = Image.OPEN[name]
        # A string would say that this Pillow was built without the format.
        if accept and accept(prefix) is not True:
            continue
        if name not in formats:
            if accept:
                raise NotAnImageError(_is_off(name))
            continue
        if accept:
            check_structure(data, name)
        try:
            image: Image.Image = factory(BytesIO(data), "")
        except _DECODER_ERRORS as e:
            # A format without a signature is tried on everything: its refusal says nothing.
            if accept:
                damage = "its header is damaged, or of a kind that is not read"
                raise _explain(e, data, f"it begins like {name}, but {damage}") from e
        else:
            return _checked(image, formats)
    raise _unknown(prefix)


def _unknown(prefix: bytes) -> NotAnImageError:
    if prefix[4:8] == _ISO_FILE and prefix[8:12] in _HEIC_BRANDS:
        return NotAnImageError("HEIC images cannot be read: convert them first, to JPEG say")
    return NotAnImageError()


def _checked(image: Image.Image, formats: Sequence[str]) -> Image.Image:
    """Refuse what a loop in Python would decode, unless that is wanted: it takes minutes."""
    if SLOW not in formats and any(
        tile[0] in Image.DECODERS for tile in getattr(image, "tile", ())
    ):
        raise NotAnImageError(_is_off(SLOW))
    return image


def _is_off(name: str) -> str:
    kind = "images whose decoder is slow" if name == SLOW else f"{name} images"
    return f"{kind} are not read here (WANWU_IMAGE_FORMATS=+{name} adds them)"


def _scale_down(image: Image.Image, jpeg_max_side: int) -> None:
    """Let a JPEG decode at the largest of its fractions whose sides are no longer than that."""
    longest = max(image.size)
    fraction = next((one for one in _FRACTIONS if longest <= one * jpeg_max_side), _FRACTIONS[-1])
    if fraction > 1:
        image.draft(None, (image.width // fraction, image.height // fraction))


def _draft(image: Image.Image, spec: Preprocessing) -> None:
    """Let a JPEG decode at an eighth, a quarter or half its size, if that leaves enough."""
    side = _FAST_GAP * max(spec.height, spec.width, spec.edge or 0)
    image.draft(None, (side, side))


def _pixels_in_memory(image: Image.Image, whole_size: tuple[int, int], data: bytes) -> int:
    """Return how many pixels are in memory at once, in numbers or as coefficients of a JPEG.

    Those of several scans are held for all of it, and take half as much as pixels at most.
    """
    pixels = image.width * image.height
    if image.size != whole_size and has_many_scans(data):
        pixels += whole_size[0] * whole_size[1] // 2
    return pixels


def _explain(error: Exception, data: bytes, sentence: str = "") -> ImageError:
    detail = str(error).lower()[:_DETAIL_CHARS]
    # libtiff and OpenJPEG do not say in another way that they were refused memory.
    if isinstance(error, MemoryError) or "out of memory" in detail or "can't allocate" in detail:
        return DecodeMemoryError()
    if any(hint in detail for hint in _BLOATED):
        msg = "a text or a profile in it inflates to more than any sound one has"
        return BrokenImageError(msg)
    if isinstance(error, EOFError) or any(hint in detail for hint in _CUT_OFF) or _is_short(data):
        return TruncatedError()
    return BrokenImageError(sentence or f"{BrokenImageError.sentence}: {detail}")


def _is_short(data: bytes) -> bool:
    """Whether a RIFF file (WebP) has fewer bytes than it says; its decoder does not check."""
    stated = int.from_bytes(data[4:_RIFF_HEADER_BYTES], "little")
    return data.startswith(b"RIFF") and len(data) < stated + _RIFF_HEADER_BYTES
