"""How numpy multiplies matrices: on the thread that asks, and no other."""

from __future__ import annotations

import os
from typing import Final

_THREADS: Final = "OPENBLAS_NUM_THREADS"


def multiply_alone() -> None:
    """Let numpy, which is not loaded yet, start no threads; what the environment says holds.

    Scores of a chunk take it a millisecond. A second thread of OpenBLAS would wait for the next
    product with its core in hand: a quarter of a core, 5 ms for each image.
    """
    os.environ.setdefault(_THREADS, "1")
