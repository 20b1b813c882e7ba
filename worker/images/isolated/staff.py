"""The decode processes and what waits for them: who gets what next."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from worker.images.decoder import DecodeRequest
from worker.images.isolated.member import Member
from worker.images.isolated.pixel_locks import LOCKS
from worker.images.isolated.waiting import Waiting

# For so long smaller images may pass one that was put back; then its process waits for the locks.
PASSED_S: Final = 5.0


class Staff:
    """Gives images to processes. Not for several threads at once: `DecodePool` locks it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.members: list[Member] = []
        self.waiting = Waiting()

    def feed(self) -> None:
        """Give what waits to the processes that can take it."""
        waiting = self.waiting
        while waiting.has_urgent and (free := self._free(urgent=True)):
            self._send(free[0], waiting.next_urgent())
        while (large := self._next_large()) and (free := self._free(urgent=large.is_urgent)):
            waiting.large.remove(large)
            self._send(free[0], [large])
        while waiting.has_others and (free := self._free(urgent=False)):
            self._send(free[0], waiting.next_others(len(free)))

    def _next_large(self) -> DecodeRequest | None:
        """Return the next of those put back for which there are locks, or that has to be next."""
        large = self.waiting.large
        if not large:
            return None
        left = LOCKS - sum(member.locks for member in self.members)
        for request in large:
            if request.locks <= left:
                return request
        is_overdue = self._clock() - large[0].put_back_at_s > PASSED_S
        is_alone = not any(member.may_wait for member in self.members)
        return large[0] if is_overdue and is_alone else None

    def _free(self, *, urgent: bool) -> list[Member]:
        """Return the processes that can take an order, those that have least to do first."""
        # While urgent images wait, no process gets a second order: one that is done takes them.
        most = 1 + (self.waiting.pace.is_short and not self.waiting.has_urgent and not urgent)
        free = [
            member
            for member in self.members
            if member.orders < most and (urgent or not member.urgent_only) and not member.may_wait
        ]
        return sorted(free, key=lambda member: member.orders)

    @staticmethod
    def _send(member: Member, requests: list[DecodeRequest]) -> None:
        # A process that has ended is seen by the pool's thread, which finds these with it.
        with suppress(OSError):
            member.send(requests)
