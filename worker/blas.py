"""How threads of the libraries wait for each other: numpy's not at all, torch's for a moment.

To be called before numpy and torch are loaded, which read the environment then.
"""

from __future__ import annotations

import os
from typing import Final

_THREADS: Final = "OPENBLAS_NUM_THREADS"
# Of GNU's OpenMP, which torch brings along; whoever has set one of them has decided.
_SPINS: Final = "GOMP_SPINCOUNT"
_POLICY: Final = "OMP_WAIT_POLICY"
# By default 300,000: some ms.
_BRIEFLY: Final = "3000"


def multiply_alone() -> None:
    """Let numpy, which is not loaded yet, start no threads; what the environment says holds.

    Scores of a chunk take it a millisecond. A second thread of OpenBLAS would wait for the next
    product with its core in hand: a quarter of a core, 5 ms for each image.
    """
    os.environ.setdefault(_THREADS, "1")


def wait_briefly() -> None:
    """Let threads of torch that share a layer give up their core when others are late.

    By default they spin for some ms. Where other processes want the cores, such as workers that
    start at the same time, the one that is waited for may be one that has no core: then a layer
    takes many times as long. Between two layers, a few microseconds pass: for those they spin.
    """
    if _POLICY not in os.environ:
        os.environ.setdefault(_SPINS, _BRIEFLY)
