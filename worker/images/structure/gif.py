"""GIF bytes -> refused if too many blocks lie before its first frame; no other is read."""

from __future__ import annotations

from typing import Final

from worker.images.structure.limits import at_most

# Pillow takes a step in Python for each. A profile of 3 MB has 12,000.
MAX_BLOCKS: Final = 100_000

_SCREEN_BYTES: Final = 13
_HAS_PALETTE: Final = 128
_EXTENSION: Final = ord("!")
_ENDS: Final = frozenset(b",;")


def check_gif(data: bytes) -> None:
    """Refuse many blocks of extensions, and many bytes between them.

    Raises:
        TooComplexError: there are too many.
    """
    # Most files have fewer bytes than that.
    if len(data) <= MAX_BLOCKS:
        return
    place, steps = _SCREEN_BYTES, 0
    if data[10] & _HAS_PALETTE:
        place += 3 << ((data[10] & 7) + 1)
    while data[place] not in _ENDS:
        if data[place] == _EXTENSION:
            place += 2
            while length := data[place]:
                place += length + 1
                steps += 1
                if steps > MAX_BLOCKS:
                    break
        place += 1
        steps += 1
        at_most(steps, MAX_BLOCKS, "blocks before its first frame")
