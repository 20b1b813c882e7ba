"""How the process keeps memory: one heap for all threads."""

from __future__ import annotations

import ctypes
from typing import Final

# Of glibc's malloc.h.
_M_ARENA_MAX: Final = -8


def limit_malloc_arenas() -> bool:
    """Let all threads share a heap; return whether malloc obeys. Before any thread starts.

    By default glibc gives each thread one of its own. What one thread makes and another frees, such
    as a message on its way from the feeder to the publisher, then leaves holes that no other thread
    fills, and over millions of images the process grows. Other C libraries are left as they are.
    """
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1))
    except (OSError, AttributeError):
        return False
