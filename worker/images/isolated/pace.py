"""How many images an order should have: enough work to be worth a message, and no more."""

from __future__ import annotations

from typing import Final

from worker.images.isolated.wire import ORDER_IMAGES

# An order and its reply cost some 0.1 ms; an image that takes so long is worth one of its own.
_WORTH_MS: Final = 8.0
# A process that has done its order stands idle until the next one comes: 0.2 ms where the worker
# has nothing else to do, 1 to 2 where it has. With images slower than this, that does not matter;
# and none is to wait long behind another, while other processes have nothing to do.
_SHORT_MS: Final = 40.0
# Of the newest image in the running mean.
_WEIGHT: Final = 0.1


class Pace:
    """How long an image takes: a running mean. Slow until it is known."""

    def __init__(self) -> None:
        self._mean_ms = _WORTH_MS

    def note(self, took_ms: float) -> None:
        """Count an image."""
        self._mean_ms += _WEIGHT * (took_ms - self._mean_ms)

    @property
    def is_short(self) -> bool:
        """Whether a process should have its next order before it has done the last."""
        return self._mean_ms < _SHORT_MS

    def images(self, waiting: int, free: int) -> int:
        """Return how many of those waiting go into an order, if so many processes are free."""
        worth = max(1, round(_WORTH_MS / max(self._mean_ms, _WORTH_MS / ORDER_IMAGES)))
        return max(1, min(worth, -(-waiting // free)))
