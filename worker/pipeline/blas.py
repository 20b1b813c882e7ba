"""numpy's OpenBLAS -> one thread: a product of matrices is computed by the thread that wants it."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any, Final

import numpy as np

# Of wheels, which bring a library of their own. What a distribution links to may be others', too.
_PLACE: Final = "numpy.libs"
_NAMES: Final = ("scipy_openblas{}_num_threads64_", "openblas{}_num_threads")


def use_one_blas_thread() -> bool:
    """Let numpy multiply matrices in the calling thread alone; tell whether it agrees.

    The threads that OpenBLAS has for each core spin for some 30 ms after every product that they
    had a part in, and so take the cores from the model. Task threads rank side by side anyway.
    """
    library = _library()
    if library is None:
        return False
    for name in _NAMES:
        if (limit := getattr(library, name.format("_set"), None)) is not None:
            limit(1)
            return blas_threads() == 1
    return False


def blas_threads() -> int | None:
    """Return how many threads multiply numpy's matrices; None if that is not known."""
    library = _library()
    for name in _NAMES:
        if (count := getattr(library, name.format("_get"), None)) is not None:
            return int(count())
    return None


def _library() -> Any:
    """Return the library as numpy has loaded it."""
    for path in (Path(np.__file__).parents[1] / _PLACE).glob("*openblas*"):
        try:
            return ctypes.CDLL(str(path))
        except OSError:
            continue
    return None
