"""The times of one image and the counts of all. Measured here once, printed elsewhere."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from statistics import quantiles
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from worker.contract.messages import ImageResult, Timing

Clock = Callable[[], float]

_MOST_CODES: Final = 64
_OTHER_CODE: Final = "other"
STAGES: Final = ("queue", "read", "decode", "batch_wait", "infer", "total")
# The times of all stages of an image.
_times_ms: Final = attrgetter(*(f"{stage}_ms" for stage in STAGES))
# From a cached file's read to a night in the queue.
BOUNDS_S: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0),
)
# What `images_per_s` looks back on: long enough for a slow worker, short enough to be "now".
PACE_S: Final = 10.0
# Percentiles are taken over this many images, the last ones.
REMEMBERED: Final = 1000
PERCENTILES: Final = (50, 90, 99)
# Of a millisecond: that is how the times come.
_DECIMALS: Final = 3


class Stopwatch:
    """The times of one image in milliseconds, by the names of `Timing`'s fields."""

    __slots__ = ("_clock", "_started_s", "readings_ms")

    def __init__(self, clock: Clock, queue_ms: float) -> None:
        self._clock = clock
        self._started_s = clock()
        self.readings_ms = {"queue_ms": queue_ms}

    def time(self, name: str) -> _Lap:
        """Time a stage, as a context, whether it succeeds or fails."""
        return _Lap(self._clock, self.readings_ms, name)

    def note(self, name: str, taken_ms: float | None) -> None:
        """Note a time that was measured elsewhere, if the stage was reached."""
        if taken_ms is not None:
            self.readings_ms[name] = taken_ms

    def stop(self) -> None:
        """Note the total: the queue, and everything since."""
        here_ms = (self._clock() - self._started_s) * 1000
        self.readings_ms["total_ms"] = self.readings_ms["queue_ms"] + here_ms


class _Lap:
    """Measures its own duration. A class: one made by contextlib costs three times as much."""

    __slots__ = ("_clock", "_name", "_readings_ms", "_started_s")

    def __init__(self, clock: Clock, readings_ms: dict[str, float], name: str) -> None:
        self._clock = clock
        self._readings_ms = readings_ms
        self._name = name

    def __enter__(self) -> None:
        self._started_s = self._clock()

    def __exit__(self, *_: object) -> None:
        self._readings_ms[self._name] = (self._clock() - self._started_s) * 1000


class Histogram:
    """How many times fell below each bound, and their sum, in seconds."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def add(self, times_ms: Iterable[float | None]) -> None:
        """Count some times, in milliseconds; None is none."""
        for ms in times_ms:
            if ms is not None:
                seconds = ms / 1000
                self.counts[bisect_left(BOUNDS_S, seconds)] += 1
                self.sum_s += seconds


class Pace:
    """How many a second, over the last `PACE_S` seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # Whole seconds in which something was done, and how much.
        self._seconds: deque[tuple[int, int]] = deque()

    def add(self, count: int) -> None:
        """Count so many, now."""
        second = int(self._clock())
        if self._seconds and self._seconds[-1][0] == second:
            _, before = self._seconds.pop()
            count += before
        self._seconds.append((second, count))
        self._forget()

    @property
    def per_s(self) -> float:
        """The mean over those seconds; 0 after a pause as long."""
        self._forget()
        if not self._seconds:
            return 0.0
        passed_s = self._clock() - self._seconds[0][0]
        return sum(count for _, count in self._seconds) / min(max(passed_s, 1.0), PACE_S)

    def _forget(self) -> None:
        since_s = self._clock() - PACE_S
        while self._seconds and self._seconds[0][0] < since_s:
            self._seconds.popleft()


class Figures:
    """Outcomes of all images since the start, by code ("" for tags), and the times they took."""

    def __init__(self, wall_clock: Clock = time.time, clock: Clock = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._wall_clock = wall_clock
        self._codes: Counter[str] = Counter()
        self._stages = {stage: Histogram() for stage in STAGES}
        self._pace = Pace(clock)
        self._latest: deque[Timing] = deque(maxlen=REMEMBERED)
        self._last_at_s = 0.0

    def add(self, images: Sequence[ImageResult]) -> None:
        """Count a chunk."""
        with self._lock:
            self._last_at_s = self._wall_clock()
            self._pace.add(len(images))
            timings = [image.timing for image in images]
            self._latest.extend(timings)
            for image in images:
                self._codes[self._code_of(image)] += 1
            columns_ms = zip(*map(_times_ms, timings), strict=True)
            for histogram, times_ms in zip(self._stages.values(), columns_ms, strict=False):
                histogram.add(times_ms)

    @property
    def images(self) -> int:
        """How many images were done."""
        with self._lock:
            return self._codes.total()

    @property
    def failed(self) -> int:
        """How many of them failed."""
        with self._lock:
            return self._codes.total() - self._codes[""]

    @property
    def images_per_s(self) -> float:
        """How many a second were done of late."""
        with self._lock:
            return self._pace.per_s

    @property
    def last_at_s(self) -> float:
        """When the last was done, in seconds since the epoch; 0 if none was."""
        return self._last_at_s

    def _code_of(self, image: ImageResult) -> str:
        """Return what an image counts as; producers may report any number of codes."""
        code = image.error.code if image.error else ""
        return code if code in self._codes or len(self._codes) < _MOST_CODES else _OTHER_CODE

    def codes(self) -> dict[str, int]:
        """Return how many images ended with each code; "" are those with tags."""
        with self._lock:
            return dict(self._codes)

    def stages(self) -> dict[str, tuple[list[int], float]]:
        """Return each stage's counts, one more than there are `BOUNDS_S`, and their sum."""
        with self._lock:
            return {stage: (list(one.counts), one.sum_s) for stage, one in self._stages.items()}

    def percentiles_ms(self) -> dict[str, dict[str, float]]:
        """Return each stage's `PERCENTILES` in ms, by name (`p50`), over the last `REMEMBERED`.

        Stages that none of those images reached are left out.
        """
        with self._lock:
            latest = list(self._latest)
        found = {}
        for stage in STAGES:
            times = [ms for one in latest if (ms := getattr(one, f"{stage}_ms")) is not None]
            if times:
                # Of a single time, all percentiles are that time.
                cuts = quantiles(times * 2 if len(times) == 1 else times, n=100, method="inclusive")
                # Between two equal times the interpolation may miss both by its last bit.
                found[stage] = {f"p{n}": round(cuts[n - 1], _DECIMALS) for n in PERCENTILES}
        return found
