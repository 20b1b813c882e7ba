"""The images of a chunk while they are under way, and one wait until the last has arrived."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final

from worker.backlog import Inferred
from worker.contract.messages import ImageRef
from worker.measure import Stopwatch

Outcome = Inferred | BaseException


class Journey:
    """One image, its stopwatch, and in the end what became of it."""

    __slots__ = ("outcome", "ref", "watch")

    def __init__(self, ref: ImageRef, watch: Stopwatch) -> None:
        self.ref: Final = ref
        self.watch: Final = watch
        self.outcome: Outcome | None = None


class Flight:
    """Counts the images that have arrived. Any thread may land one; one thread waits.

    A task's thread that awaited each image's future in turn would wake up for every one of them,
    and take the interpreter from the threads that decode: it needs them all, so it wakes once.
    """

    def __init__(
        self, journeys: Sequence[Journey], on_landed: Callable[[], None] = lambda: None
    ) -> None:
        """Take the images that are about to leave; `on_landed` is called after each landing."""
        self._on_landed = on_landed
        self._left = len(journeys)
        self._lock = threading.Lock()
        self._all_landed = threading.Event()

    def land(self, journey: Journey, outcome: Outcome) -> None:
        """Note what became of an image; once for each."""
        journey.outcome = outcome
        with self._lock:
            self._left -= 1
            is_last = not self._left
        self._on_landed()
        if is_last:
            self._all_landed.set()

    def land_with(self, journey: Journey, future: Future[Inferred]) -> None:
        """Note what became of an image once its future knows."""
        future.add_done_callback(lambda done: self.land(journey, done.exception() or done.result()))

    def wait(self) -> None:
        """Wait until every image has landed."""
        self._all_landed.wait()
