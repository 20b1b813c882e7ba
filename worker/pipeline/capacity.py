"""How many images a worker holds, and whether it should take in more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from worker.pipeline.stats import Clock


class Capacity:
    """Counts the images that are not yet inferred. Many threads may use it at once.

    A worker asks for another chunk while it holds fewer than `images`. Chunks differ in size, so a
    limit on their number would either starve the model or hold back work from other workers.
    """

    def __init__(self, images: int, clock: Clock = time.monotonic) -> None:
        self._limit = images
        self._clock = clock
        self._held = 0
        self._moved_at_s = clock()
        self._open = True
        self._lock = threading.Lock()
        self.on_left: Callable[[], None] = lambda: None

    @property
    def is_left(self) -> bool:
        """Whether another chunk is welcome."""
        return self._open and self._held < self._limit

    @property
    def is_open(self) -> bool:
        """Whether any chunk will ever be welcome: False once the worker is ending."""
        return self._open

    @property
    def held(self) -> int:
        """How many images are held."""
        return self._held

    @property
    def still_s(self) -> float:
        """For how many seconds nothing has been done for the images held; 0 if none is held."""
        return self._clock() - self._moved_at_s if self._held else 0.0

    def close(self) -> None:
        """Let no other chunk be welcome."""
        self._open = False

    def take(self, images: int) -> None:
        """Count the images of a chunk that has come, however many there are."""
        with self._lock:
            if not self._held:
                self._moved_at_s = self._clock()
            self._held += images
        if self.is_left:
            self.on_left()

    def note_progress(self) -> None:
        """Count work on what images wait for, such as their labels, as if one had been done."""
        self._moved_at_s = self._clock()

    def give_back(self, images: int = 1) -> None:
        """Count images as done; `on_left` is called when that makes another chunk welcome."""
        with self._lock:
            self._moved_at_s = self._clock()
            self._held -= images
            is_left_now = self._held < self._limit <= self._held + images
        if is_left_now:
            self.on_left()
