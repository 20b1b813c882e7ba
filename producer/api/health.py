"""Whether the queue answers, and who works: looked at beforehand, so that nobody need wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from producer.api.schemas import Health
from producer.backend.connection import Connection
from producer.backend.workers import WorkerInfo, online
from worker.contract.redis.connections import BrokerUnreachableError

# Workers answer within this time, or are not counted.
ONLINE_S: Final = 1.0
# What was seen so long ago is the answer without a new look.
_FRESH_S: Final = 4.0
# Between two looks; where nobody works, nobody is disturbed.
_PAUSE_S: Final = 2.0
_NONE_PAUSE_S: Final = 0.2
# A Redis that takes so long to answer is as good as none.
_SILENT_S: Final = 9.0
# What is said of a worker.
_FIELDS: Final = ("name", "model", "device", "has_labels", "vocabulary", "vocabulary_labels")
# Who has not been asked for so long stops to look.
_INTEREST_S: Final = 120.0


class HealthWatch:
    """Looks as long as somebody asks now and then. Used within one event loop."""

    def __init__(
        self, connection: Connection, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._connection = connection
        self._now = now
        self._pool = ThreadPoolExecutor(2, "health")
        self._task: asyncio.Task[None] | None = None
        self._looked = asyncio.Event()
        self._workers: list[WorkerInfo] = []
        self._is_away = False
        self._seen_s = self._asked_s = float("-inf")

    async def look(self) -> Health:
        """Return what was seen within the last seconds; the first one to ask waits for a look."""
        self._asked_s = self._now()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        if self._now() - self._seen_s > _FRESH_S:
            self._looked.clear()
            try:
                async with asyncio.timeout(_SILENT_S):
                    await self._looked.wait()
            except TimeoutError:
                self._is_away = True
        if self._is_away:
            return Health(status="no queue")
        found = [{name: getattr(one, name) for name in _FIELDS} for one in self._workers]
        return Health(status="ok" if found else "no worker", workers=found)

    def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._now() - self._asked_s < _INTEREST_S:
            try:
                self._workers = await loop.run_in_executor(self._pool, self._online)
                self._is_away = False
            except BrokerUnreachableError:
                self._workers, self._is_away = [], True
            self._seen_s = self._now()
            self._looked.set()
            await asyncio.sleep(_PAUSE_S if self._workers else _NONE_PAUSE_S)

    def _online(self) -> list[WorkerInfo]:
        return online(self._connection.app, ONLINE_S)
