"""A lock for chunks: many share the process, or one has it alone because a worker died with it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class ExclusiveLock:
    """Many holders at once, or one alone: if the process dies then, there is one suspect.

    A thread that wants to be alone waits for those that have begun, and keeps others out.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._together = 0
        self._waiting = 0
        self._is_one_alone = False

    @contextmanager
    def together(self) -> Iterator[None]:
        """Wait until no thread is alone or wants to be; keep others from being alone meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._is_one_alone or self._waiting))
            self._together += 1
        try:
            yield
        finally:
            with self._changed:
                self._together -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until all others have ended; keep all others out meanwhile."""
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: not (self._is_one_alone or self._together))
            self._waiting -= 1
            self._is_one_alone = True
        try:
            yield
        finally:
            with self._changed:
                self._is_one_alone = False
                self._changed.notify_all()
