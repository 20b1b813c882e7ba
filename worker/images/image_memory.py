"""Pillow image, `L` or `RGB` -> its pixels as an array: the memory itself where it can be had.

`numpy.asarray` of an image copies it twice: to three bytes a pixel, in pieces, which are then
joined. Pillow has four bytes a pixel in memory, the last without a meaning, and lends them by the
Arrow C data interface (https://arrow.apache.org/docs/format/CDataInterface.html).

Shapes: H height, W width, C three colour channels, X these and a byte without a meaning.
"""

from __future__ import annotations

import ctypes
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, _imaging

Pixels = npt.NDArray[np.uint8]

COLOURS: Final = 3
_PIXEL_BYTES: Final = 4
_PAGE_BYTES: Final = 4096
# Pillow has the size of a block in a C int.
_LARGEST_BLOCK: Final = 2**31 - _PAGE_BYTES
# An array of numbers has two buffers: which of them are valid, and then themselves.
_BUFFERS: Final = 2
_VALUES: Final = 1
_UNEXPECTED: Final = "Pillow's memory is not as it was known"


class _ArrowArray(ctypes.Structure):
    """An array as the interface has it; those that we do not need are left out behind."""


_ArrowArray._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
]
_pointer_of: Final = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype = ctypes.c_void_p
_pointer_of.argtypes = [ctypes.py_object, ctypes.c_char_p]


def keep_in_one_piece(max_pixels: int) -> None:
    """Let Pillow have images of up to so many pixels in one block of memory each.

    It lends no others; by default an image of more than 16 MB is in several blocks. Where Pillow
    has no such function, those are copied.
    """
    pages = -(-_PIXEL_BYTES * max_pixels // _PAGE_BYTES)
    if set_block_size := getattr(_imaging, "set_block_size", None):
        set_block_size(min(pages * _PAGE_BYTES, _LARGEST_BLOCK))


def pixels_of(image: Image.Image) -> Pixels:
    """Return the pixels, not to be written to: HW if grey, else HWX; or HWC, of a copy."""
    image.load()
    try:
        return np.asarray(_Lent(image))
    except (ValueError, AttributeError):  # It is in several pieces, or Pillow lends it otherwise.
        return np.asarray(image)


def shown(pixels: Pixels) -> Pixels:
    """Return pixels HWX as HWC, without a copy; others as they are."""
    return pixels if pixels.ndim == 2 else pixels[:, :, :COLOURS]  # noqa: PLR2004 - grey


class _Lent:
    """An image's memory, which lives as long as this: NumPy keeps it for as long as its array."""

    def __init__(self, image: Image.Image) -> None:
        """Borrow it.

        Raises:
            ValueError: it is in several pieces, or not what is expected of such an image.
        """
        _, self._capsule = image.__arrow_c_array__()
        array = _ArrowArray.from_address(_pointer_of(self._capsule, b"arrow_array"))
        shape: tuple[int, ...] = (image.height, image.width)
        if image.mode != "L":
            shape = (*shape, _PIXEL_BYTES)
            # A list of four numbers for each pixel.
            array = _only_child(array)
        if array.n_buffers != _BUFFERS or array.offset or array.length != prod(shape):
            raise ValueError(_UNEXPECTED)
        self.__array_interface__: dict[str, Any] = {
            "version": 3,
            "typestr": "|u1",
            "shape": shape,
            "data": (array.buffers[_VALUES], True),
        }


def _only_child(array: _ArrowArray) -> _ArrowArray:
    if array.n_children != 1 or array.offset:
        raise ValueError(_UNEXPECTED)
    child: _ArrowArray = array.children[0].contents
    return child
