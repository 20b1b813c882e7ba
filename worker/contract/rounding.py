"""A measure -> its figures for a person: as many digits as it needs to say something."""

from __future__ import annotations

import math


def figure(value: float, decimals: int = 0, digits: int = 2) -> str:
    """Return a number with so many decimals, or with more until it has that many digits.

    A thousandth of a second is not 0 ms, and a file of 300 kB not 0 MB.
    """
    if value and math.isfinite(value):
        decimals = max(decimals, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{decimals}f}"
