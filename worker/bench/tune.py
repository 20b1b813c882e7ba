"""Engine -> the smallest batch size that is as good as any: images per second of each, in turns.

Shapes: C colour channels, H x W pixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Final

import msgspec
import numpy as np

from worker.contract.i18n import gettext as _
from worker.contract.rounding import figure
from worker.contract.settings import DEFAULT_BATCH
from worker.engines.base import Engine
from worker.engines.infer import infer, warm_runs
from worker.errors import DeviceMemoryError

SIZES: Final = (1, 2, 4, 8, 16, 32, 64)
ROUNDS: Final = 5
# The difference is not noticeable, and a smaller batch waits less and needs less memory.
AS_GOOD: Final = 0.97
# A batch larger than those that nobody has tuned takes no longer: what is urgent waits for the one
# that runs.
MOST_MS: Final = 250.0
_LEAST_CALLS: Final = 2
_DOUBLINGS: Final = 4


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """A batch size with the median time of a call."""

    batch: int
    ms: float

    @property
    def images_per_s(self) -> float:
        """Images per second."""
        return 1000 * self.batch / self.ms


def rates(
    engine: Engine,
    shape_CHW: tuple[int, int, int],
    seconds: float,
    *,
    sizes: Sequence[int] = SIZES,
    echo: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Rate]:
    """Measure sizes until they stop paying or do not fit in memory, each for `seconds`."""
    usable = _scout(engine, shape_CHW, sizes, echo, clock)
    times_ms: dict[int, list[float]] = {size: [] for size in usable}
    for number in range(1, ROUNDS + 1):
        echo(_("round {number} of {rounds}").format(number=number, rounds=ROUNDS))
        for size, taken_ms in times_ms.items():
            ends_s = clock() + seconds / ROUNDS
            calls = 0
            while calls < _LEAST_CALLS or clock() < ends_s:
                taken_ms.append(_call_ms(engine, shape_CHW, size, clock))
                calls += 1
    return [Rate(batch=size, ms=median(taken_ms)) for size, taken_ms in times_ms.items()]


def propose(found: Sequence[Rate]) -> Rate:
    """Return the smallest size whose rate is as good as the best, but for a few hundredths.

    Sizes above that by default count only if a batch takes no longer than `MOST_MS`.
    """
    quick = [one for one in found if one.batch <= DEFAULT_BATCH or one.ms <= MOST_MS]
    best = max(one.images_per_s for one in quick)
    return next(one for one in quick if one.images_per_s >= AS_GOOD * best)


def _scout(
    engine: Engine,
    shape_CHW: tuple[int, int, int],
    sizes: Sequence[int],
    echo: Callable[[str], None],
    clock: Callable[[], float],
) -> list[int]:
    """Warm sizes up in order; leave off when two doublings brought nothing, or memory ends."""
    usable: list[Rate] = []
    for size in sizes:
        try:
            for _warm_up in range(warm_runs(engine.device)):
                _call_ms(engine, shape_CHW, size, clock)
            ms = min(_call_ms(engine, shape_CHW, size, clock) for _call in range(_LEAST_CALLS))
        except DeviceMemoryError:
            echo(_("a batch of {size} does not fit in memory").format(size=size))
            break
        usable.append(Rate(batch=size, ms=ms))
        line = _("a batch of {size}: {rate} images/s")
        echo(line.format(size=size, rate=figure(usable[-1].images_per_s, 1)))
        if size >= _DOUBLINGS * propose(usable).batch:
            break
    return [one.batch for one in usable]


def _call_ms(
    engine: Engine, shape_CHW: tuple[int, int, int], size: int, clock: Callable[[], float]
) -> float:
    pixels_CHW = np.full(shape_CHW, 127, np.uint8)
    began_s = clock()
    infer(engine, [pixels_CHW] * size)
    return 1000 * (clock() - began_s)
