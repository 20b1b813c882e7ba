"""The times of one image and the counts of all. Measured here once; everybody else prints."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Clock = Callable[[], float]


class Stopwatch:
    """The times of one image in milliseconds, by the names of `Timing`'s fields."""

    def __init__(self, clock: Clock, queue_ms: float) -> None:
        self._clock = clock
        self._started_s = clock()
        self.readings_ms = {"queue_ms": queue_ms}

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Time a stage, whether it succeeds or fails."""
        started_s = self._clock()
        try:
            yield
        finally:
            self.readings_ms[name] = (self._clock() - started_s) * 1000

    def stop(self) -> None:
        """Note the total: the queue, and everything since."""
        here_ms = (self._clock() - self._started_s) * 1000
        self.readings_ms["total_ms"] = self.readings_ms["queue_ms"] + here_ms


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
