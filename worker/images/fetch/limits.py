"""How much is done at once: per host and in all, in fetches and in bytes. For one event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class HostSlots:
    """So many at once, and for each host fewer: a slow one leaves slots to all others."""

    def __init__(self, total: int, per_host: int) -> None:
        self._total = asyncio.Semaphore(total)
        self._per_host = per_host
        self._hosts: dict[str, asyncio.Semaphore] = {}
        # How many hold or await a slot of a host: it is forgotten with the last.
        self._users: dict[str, int] = {}

    @asynccontextmanager
    async def hold(self, host: str) -> AsyncIterator[None]:
        """Hold a slot, as a context."""
        await self.acquire(host)
        try:
            yield
        finally:
            self.release(host)

    async def acquire(self, host: str) -> None:
        """Wait for a slot: first for one of the host, so that nobody waits behind its others."""
        self._users[host] = self._users.get(host, 0) + 1
        slots = self._hosts.setdefault(host, asyncio.Semaphore(self._per_host))
        try:
            await slots.acquire()
            try:
                await self._total.acquire()
            except BaseException:
                slots.release()
                raise
        except BaseException:
            self._forget(host)
            raise

    def release(self, host: str) -> None:
        """Give back a slot."""
        self._total.release()
        self._hosts[host].release()
        self._forget(host)

    def _forget(self, host: str) -> None:
        self._users[host] -= 1
        if not self._users[host]:
            del self._users[host], self._hosts[host]


class ByteBudget:
    """So many bytes at once; who comes first is served first."""

    def __init__(self, total_bytes: int) -> None:
        self._left = total_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size_bytes: int) -> None:
        """Wait until there are so many bytes left; no more than there are in all."""
        ready = asyncio.get_running_loop().create_future()
        self._waiting.append((size_bytes, ready))
        self._serve()
        try:
            await ready
        except BaseException:
            if ready.done() and not ready.cancelled():
                self.give_back(size_bytes)
            self._serve()
            raise

    def give_back(self, size_bytes: int) -> None:
        """Give back what was taken."""
        self._left += size_bytes
        self._serve()

    def _serve(self) -> None:
        while self._waiting:
            size_bytes, ready = self._waiting[0]
            if not ready.done():
                if size_bytes > self._left:
                    return
                self._left -= size_bytes
                ready.set_result(None)
            self._waiting.popleft()
