"""Values over time -> the points of an SVG polyline, and a round number for its top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

WIDTH: Final = 600
HEIGHT: Final = 160
_STEPS: Final = (1.0, 2.0, 2.5, 5.0, 10.0)
_SPANS_S: Final = (60.0, 120.0, 300.0, 600.0)


def top_of(values: Sequence[float | None]) -> float:
    """Return a round number that none exceeds: what the upper edge stands for. At least 1."""
    most = max((value for value in values if value is not None), default=0.0)
    size = 1.0
    while size * _STEPS[-1] < most:
        size *= 10
    return next(step * size for step in _STEPS if step * size >= most)


def span_of(ago_s: Sequence[float]) -> float:
    """Return how many seconds to show: a minute, and up to ten as time goes on."""
    oldest_s = max(ago_s, default=0.0)
    return next((span for span in _SPANS_S if span >= oldest_s), _SPANS_S[-1])


def points(
    ago_s: Sequence[float], values: Sequence[float | None], top: float, span_s: float
) -> str:
    """Return `x,y x,y ...` in a field of `WIDTH` x `HEIGHT`: now at the right, zero at the bottom.

    What nobody knows (None) is left out.
    """
    return " ".join(
        f"{WIDTH * (1 - age / span_s):.1f},{HEIGHT * (1 - value / top):.1f}"
        for age, value in zip(ago_s, values, strict=True)
        if value is not None and age <= span_s
    )
