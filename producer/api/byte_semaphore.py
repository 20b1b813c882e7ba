"""So many bytes may be worked on at a time; the next in line waits, and holds no thread."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial


class ByteSemaphore:
    """So many bytes may be held at a time; what is larger is held alone. First come, first served.

    A holder may release before its block ends.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = self._free = most_bytes
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def holding(self, size_bytes: int) -> AsyncIterator[partial[None]]:
        """Hold bytes for a block; what it yields releases them earlier."""
        size = min(size_bytes, self._most_bytes)
        if self._queue or size > self._free:
            await self._wait(size)
        else:
            self._free -= size
        held = [size]
        try:
            yield partial(self._release, held)
        finally:
            self._release(held)

    async def _wait(self, size: int) -> None:
        future = asyncio.get_running_loop().create_future()
        entry = (size, future)
        self._queue.append(entry)
        try:
            await future
        except asyncio.CancelledError:
            if entry in self._queue:
                self._queue.remove(entry)
            elif not future.cancelled():
                self._free += size
            self._serve()
            raise

    def _release(self, held: list[int]) -> None:
        if held:
            self._free += held.pop()
            self._serve()

    def _serve(self) -> None:
        while self._queue and self._queue[0][0] <= self._free:
            size, future = self._queue.popleft()
            if not future.done():
                self._free -= size
                future.set_result(None)
