"""How many pixels all decode processes of a worker may hold at once: locks that die with them."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

# Each lock stands for so much of the limit. A byte of a file that has none is locked for each.
_LOCKS: Final = 4


class PixelsTakenError(Exception):
    """Other images are in memory, and this one was not to wait for them."""


class PixelLocks:
    """Large images wait for each other; what a process holds is released when it is killed.

    An image of up to a quarter of `max_pixels` takes one of four locks, a larger one all of them,
    and what is small even if every process has one takes none: together they hold no more than
    1.25 times `max_pixels`.
    """

    def __init__(
        self,
        handle: int,
        max_pixels: int,
        processes: int,
        on_wait: Callable[[], None],
        on_go: Callable[[], None],
        on_hold: Callable[..., None],
    ) -> None:
        """Take the handle of a file that is for this alone, and what to call.

        That is around a wait, and when locks are held or given back.
        """
        self._handle = handle
        self._part = max_pixels // _LOCKS
        self._small = self._part // processes
        self._on_wait = on_wait
        self._on_go = on_go
        self._on_hold = on_hold
        # Whether the next image waits for others.
        self.waits = True

    @contextmanager
    def acquire(self, pixels: int) -> Iterator[None]:
        """Hold so many pixels.

        Raises:
            PixelsTakenError: others hold them, and this image does not wait.
        """
        if pixels <= self._small:
            yield
            return
        taken: list[int] = []
        try:
            self._take(1 if pixels <= self._part else _LOCKS, taken)
            self._on_hold(is_large=True)
            yield
        finally:
            self._on_hold(is_large=False)
            for lock in taken:
                fcntl.lockf(self._handle, fcntl.LOCK_UN, 1, lock)

    def _take(self, wanted: int, taken: list[int]) -> None:
        if self.waits and wanted == _LOCKS:
            # In order, so that no two wait for each other.
            for lock in range(_LOCKS):
                self._wait(lock)
                taken.append(lock)
            return
        for lock in range(_LOCKS):
            if len(taken) < wanted and self._try(lock):
                taken.append(lock)
        if len(taken) == wanted:
            return
        if not self.waits:
            raise PixelsTakenError
        self._wait(_LOCKS - 1)
        taken.append(_LOCKS - 1)

    def _try(self, lock: int) -> bool:
        try:
            fcntl.lockf(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, lock)
        except OSError:
            return False
        return True

    def _wait(self, lock: int) -> None:
        if not self._try(lock):
            self._on_wait()
            fcntl.lockf(self._handle, fcntl.LOCK_EX, 1, lock)
            self._on_go()
