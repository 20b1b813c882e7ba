"""How many images a worker holds, and whether it should take in more."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Room:
    """Counts the images that are not yet inferred. Many threads may use it at once.

    A worker asks for another chunk while it holds fewer than `images`. Chunks differ in size, so a
    limit on their number would either starve the model or keep from other workers what they need.
    """

    def __init__(self, images: int) -> None:
        self._limit = images
        self._held = 0
        self._open = True
        self._lock = threading.Lock()
        self.on_left: Callable[[], None] = lambda: None

    @property
    def is_left(self) -> bool:
        """Whether another chunk is welcome."""
        return self._open and self._held < self._limit

    def close(self) -> None:
        """Let no other chunk be welcome."""
        self._open = False

    def take(self, images: int) -> None:
        """Count the images of a chunk that has come, however many there are."""
        with self._lock:
            self._held += images
        if self.is_left:
            self.on_left()

    def give_back(self, images: int = 1) -> None:
        """Count images as done; `on_left` is called when that makes another chunk welcome."""
        with self._lock:
            self._held -= images
            is_left_now = self._held < self._limit <= self._held + images
        if is_left_now:
            self.on_left()
