"""Calls that cannot be interrupted -> awaited, on threads that may be left behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

from worker.images.fetch.limits import HostSlots

T = TypeVar("T")


class DaemonThreads:
    """Threads for calls whose end a stranger decides. Belongs to one event loop.

    Who stops waiting for a call leaves its thread behind: that keeps its slot until the call ends,
    so there are never more than `total` threads, and never more than `per_host` for one host. They
    do not hold up the end of the process, as those of an executor would.
    """

    def __init__(self, name: str, total: int, per_host: int) -> None:
        self._name = name
        self._slots = HostSlots(total, per_host)
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = 0
        self._busy = 0

    async def call(self, host: str, do: Callable[[], T]) -> T:
        """Return what `do` returns, on a thread."""
        loop = asyncio.get_running_loop()
        await self._slots.acquire(host)
        reply: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            result, error = None, None
            try:
                result = do()
            except BaseException as e:  # noqa: BLE001 - goes to who waits
                error = e
            # The loop is closed if the pool has ended meanwhile.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._end, host, reply, result, error)

        self._busy += 1
        if self._busy > self._threads:
            self._threads += 1
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        self._calls.put(run)
        return await reply

    def stop(self) -> None:
        """End the threads: each when its call has ended."""
        for _ in range(self._threads):
            self._calls.put(None)

    def _work(self) -> None:
        while (run := self._calls.get()) is not None:
            run()

    def _end(
        self, host: str, reply: asyncio.Future[Any], result: object, error: BaseException | None
    ) -> None:
        self._busy -= 1
        self._slots.release(host)
        if reply.done():
            return
        if error is None:
            reply.set_result(result)
        else:
            reply.set_exception(error)
