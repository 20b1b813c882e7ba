"""Two engines -> how many times as fast the second is, measured in turns.

A machine is not equally fast all the time: two equal exports, timed one after the other, were 1.44
apart. So each round asks both, in either order, and the ratios of rounds are compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Final, NamedTuple

from torch import Tensor

from worker.engines.base import Engine

ROUNDS: Final = 9
_LEAST_ROUNDS: Final = 3
_ENOUGH_S: Final = 6.0
_WARM_UPS: Final = 2


class Ratio(NamedTuple):
    """How many times as fast: the median of the rounds, the lowest, and the highest."""

    middle: float
    lowest: float
    highest: float


def times_as_fast(
    first: Engine,
    second: Engine,
    images_NCHW: Tensor,
    clock: Callable[[], float] = time.perf_counter,
) -> Ratio:
    """Return the first engine's time for a batch to the second's, over rounds."""
    found = ratios(first, second, images_NCHW, clock)
    return Ratio(median(found), min(found), max(found))


def ratios(
    first: Engine,
    second: Engine,
    images_NCHW: Tensor,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Return, of each round, the first engine's time for a batch to the second's, by a clock."""
    for _warm_up in range(_WARM_UPS):
        first.embed(images_NCHW)
        second.embed(images_NCHW)
    began_s = clock()
    found: list[float] = []
    while len(found) < ROUNDS and (len(found) < _LEAST_ROUNDS or clock() - began_s < _ENOUGH_S):
        order = (first, second) if len(found) % 2 else (second, first)
        taken_s = {}
        for engine in order:
            start_s = clock()
            engine.embed(images_NCHW)
            taken_s[engine] = clock() - start_s
        found.append(taken_s[first] / taken_s[second])
    return found
