"""Imports of large libraries, without the searches for garbage that they set off.

torch makes a million objects while it is loaded, none of them garbage, and Python looks through all
that it has again and again: a quarter of the time. It would go on so, a tenth of a second for each
full search of a worker, and once more at its end.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Import in the block; what is there at its end is never looked through for garbage again.

    For whole programs: what lives no longer than a call is not to be kept for ever.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
