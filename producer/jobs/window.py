"""What is under way: chunks sent whose results have not come. Bounds both images and bytes."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import NamedTuple

from worker.contract.messages import ImageRef


class Sent(NamedTuple):
    """A chunk under way, with the size of its blobs."""

    images: tuple[ImageRef, ...]
    size_bytes: int


class WindowClosedError(RuntimeError):
    """Nobody waits for results any more: stop sending."""


class Window:
    """Back-pressure between the thread that sends and the thread that collects.

    Neither Redis nor the producer grows with the directory: `add` blocks while more than
    `max_images` images or `max_bytes` bytes would be under way. A chunk that is larger than that on
    its own goes alone.
    """

    def __init__(self, max_images: int, max_bytes: int) -> None:
        self._max_images = max_images
        self._max_bytes = max_bytes
        self._sent: dict[int, Sent] = {}
        self._images = 0
        self._bytes = 0
        self._closed = False
        self._changed = threading.Condition()

    def add(self, seq: int, sent: Sent) -> None:
        """Wait until it fits, then count the chunk as under way.

        Raises:
            WindowClosedError: the window was closed meanwhile.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._fits(sent))
            if self._closed:
                raise WindowClosedError
            self._sent[seq] = sent
            self._images += len(sent.images)
            self._bytes += sent.size_bytes

    def remove(self, seq: int) -> Sent:
        """Take a chunk out, and let the next one in."""
        with self._changed:
            sent = self._sent.pop(seq)
            self._images -= len(sent.images)
            self._bytes -= sent.size_bytes
            self._changed.notify_all()
            return sent

    def close(self) -> None:
        """Let whoever waits in `add` go, with WindowClosedError."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def parts(self, max_images: int) -> list[list[int]]:
        """Return the chunks under way, the oldest first, in parts of at most so many images.

        A chunk that is larger on its own is a part of its own.
        """
        found: list[list[int]] = []
        capacity = 0
        with self._changed:
            for seq, sent in self._sent.items():
                if not found or len(sent.images) > capacity:
                    found.append([])
                    capacity = max_images
                found[-1].append(seq)
                capacity -= len(sent.images)
        return found

    def has_lost(self, seqs: Iterable[int]) -> bool:
        """Whether any of these chunks has been taken out."""
        with self._changed:
            return not self._sent.keys() >= set(seqs)

    @property
    def images(self) -> int:
        """How many images are under way."""
        return self._images

    def _fits(self, sent: Sent) -> bool:
        if not self._sent:
            return True
        fits = self._images + len(sent.images) <= self._max_images
        return fits and self._bytes + sent.size_bytes <= self._max_bytes
