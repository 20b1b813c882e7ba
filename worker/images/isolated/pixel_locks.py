"""How many pixels all decode processes of a worker may hold at once: locks that die with them."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

# Each lock stands for so much of the limit. A byte of a file that has none is locked for each.
LOCKS: Final = 64
# Of the limit, what small images may hold beside it, all together.
_BESIDE: Final = 4


class PixelsTakenError(Exception):
    """Other images are in memory, and this one, which needs `locks`, was not to wait for them."""

    def __init__(self, locks: int) -> None:
        super().__init__(locks)
        self.locks: Final = locks


class PixelLocks:
    """Large images wait for each other; what a process holds is released when it is killed.

    There are 64 locks, each for a part of `max_pixels`, and an image takes as many as it has parts.
    What is small even if every process has one takes none: together they hold no more than 1.25
    times `max_pixels`.
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
        self._part = max(1, max_pixels // LOCKS)
        self._small = max_pixels // _BESIDE // processes
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
            self._take(min(LOCKS, -(-pixels // self._part)), taken)
            self._on_hold(locks=len(taken))
            yield
        finally:
            self._on_hold(locks=0)
            for lock in taken:
                fcntl.lockf(self._handle, fcntl.LOCK_UN, 1, lock)

    def _take(self, wanted: int, taken: list[int]) -> None:
        """Take so many, one after the other in their order: no two wait for each other."""
        for lock in range(LOCKS):
            missing = wanted - len(taken)
            if not missing:
                return
            if self._try(lock):
                taken.append(lock)
            elif LOCKS - lock <= missing:
                if not self.waits:
                    raise PixelsTakenError(wanted)
                self._wait(lock)
                taken.append(lock)

    def _try(self, lock: int) -> bool:
        try:
            fcntl.lockf(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, lock)
        except OSError:
            return False
        return True

    def _wait(self, lock: int) -> None:
        self._on_wait()
        fcntl.lockf(self._handle, fcntl.LOCK_EX, 1, lock)
        self._on_go()
