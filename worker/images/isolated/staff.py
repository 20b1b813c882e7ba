"""The decode processes and what waits for them: who gets what next."""

from __future__ import annotations

from contextlib import suppress

from worker.images.decoder import DecodeRequest
from worker.images.isolated.member import Member
from worker.images.isolated.waiting import Waiting


class Staff:
    """Gives images to processes. Not for several threads at once: `DecodePool` locks it."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.waiting = Waiting()

    def feed(self) -> None:
        """Give what waits to the processes that can take it."""
        waiting = self.waiting
        while waiting.has_urgent and (free := self._free(urgent=True)):
            self._send(free[0], waiting.next_urgent())
        large = waiting.large
        if large is not None and not any(member.has_large for member in self.members):
            for member in self._free(urgent=large.is_urgent)[:1]:
                self._send(member, waiting.next_large())
        while waiting.has_others and (free := self._free(urgent=False)):
            self._send(free[0], waiting.next_others(len(free)))

    def _free(self, *, urgent: bool) -> list[Member]:
        """Return the processes that can take an order, those that have least to do first."""
        most = 1 + (self.waiting.pace.is_short and not urgent)
        free = [
            member
            for member in self.members
            if member.orders < most
            and (urgent or not member.urgent_only)
            and not (member.orders and member.has_large)
        ]
        return sorted(free, key=lambda member: member.orders)

    @staticmethod
    def _send(member: Member, requests: list[DecodeRequest]) -> None:
        # A process that has ended is seen by the pool's thread, which finds these with it.
        with suppress(OSError):
            member.send(requests)
