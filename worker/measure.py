"""The times of one image and the counts of all. Measured here once; everybody else prints."""

from __future__ import annotations

import threading
from collections.abc import Callable

Clock = Callable[[], float]


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

    def stop(self) -> None:
        """Note the total: the queue, and everything since."""
        here_ms = (self._clock() - self._started_s) * 1000
        self.readings_ms["total_ms"] = self.readings_ms["queue_ms"] + here_ms


class _Lap:
    """Notes its own length. A class, because one made by contextlib costs three times as much."""

    __slots__ = ("_clock", "_name", "_readings_ms", "_started_s")

    def __init__(self, clock: Clock, readings_ms: dict[str, float], name: str) -> None:
        self._clock = clock
        self._readings_ms = readings_ms
        self._name = name

    def __enter__(self) -> None:
        self._started_s = self._clock()

    def __exit__(self, *_: object) -> None:
        self._readings_ms[self._name] = (self._clock() - self._started_s) * 1000


class Counts:
    """How many images were done since the start, and how many of them failed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.images = 0
        self.failed = 0

    def add(self, images: int, failed: int) -> None:
        """Count a chunk."""
        with self._lock:
            self.images += images
            self.failed += failed
