"""A semaphore for amounts: how much may be in use at once, whatever the number of threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class WeightedSemaphore:
    """An amount, such as of pixels, that threads acquire and release, first come, first served."""

    def __init__(self, amount: int) -> None:
        self._amount = amount
        self._left = amount
        self._changed = threading.Condition()
        self._next_ticket = 0
        self._now_serving = 0

    @contextmanager
    def acquire(self, amount: int) -> Iterator[None]:
        """Wait until `amount` is free and hold it; more than there is at all is held alone."""
        wanted = min(amount, self._amount)
        with self._changed:
            ticket = self._next_ticket
            self._next_ticket += 1
            # In turn: small amounts would overtake a large one for ever.
            self._changed.wait_for(lambda: ticket == self._now_serving and self._left >= wanted)
            self._now_serving += 1
            self._left -= wanted
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._left += wanted
                self._changed.notify_all()
