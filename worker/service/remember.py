"""An answer that may be some moments old, so that a question need not be asked each time."""

from __future__ import annotations

import time
from collections.abc import Callable

from worker.pipeline.stats import Clock


class Remembered:
    """Asks `question` of the last name asked about, at most once in `pause_s` seconds.

    Threads may ask at once; two that find the answer stale both ask.
    """

    def __init__(
        self, question: Callable[[str], bool], pause_s: float, clock: Clock = time.monotonic
    ) -> None:
        self._question = question
        self._pause_s = pause_s
        self._clock = clock
        self._last: tuple[str, float, bool] = ("", 0.0, False)

    def __call__(self, name: str) -> bool:
        """Return the answer."""
        asked_about, stale_at_s, answer = self._last
        if asked_about != name or self._clock() >= stale_at_s:
            answer = self._question(name)
            self._last = (name, self._clock() + self._pause_s, answer)
        return answer
