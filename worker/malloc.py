"""How the process keeps memory: what a batch needs is not returned after every batch."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Final

# Of glibc's malloc.h, and the largest threshold that it accepts.
_M_TRIM_THRESHOLD: Final = -1
_M_TOP_PAD: Final = -2
_M_MMAP_THRESHOLD: Final = -3
_LARGEST_BLOCK: Final = 32 * 1024 * 1024
_KEPT_BYTES: Final = 512 * 1024 * 1024


def return_freed_memory() -> None:
    """Give back what is free now: of loading a model, as much as the model itself."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def disable_malloc_trim(kept_bytes: int = _KEPT_BYTES) -> bool:
    """Let malloc keep what is freed, up to `kept_bytes`, for the process; tell whether it agrees.

    By default glibc hands blocks of several MB, such as the states between two layers, back to the
    system and fetches them again, page by page: a ViT-B/16 then spends 15 % of its time in page
    faults. Blocks above 32 MB still go back. Other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    wanted = (
        (_M_MMAP_THRESHOLD, _LARGEST_BLOCK),
        (_M_TRIM_THRESHOLD, kept_bytes),
        (_M_TOP_PAD, _LARGEST_BLOCK),
    )
    return all(mallopt(name, value) for name, value in wanted)
