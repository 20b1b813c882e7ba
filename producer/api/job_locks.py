"""Job id -> a lock of this process: of each job one upload at a time has a thread.

Other servers at the same Redis are kept out by a lock there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from weakref import WeakValueDictionary

from producer.api.jobs import FullError

_WAIT_S: Final = 5.0


class JobLocks:
    """Locks of the jobs that somebody uploads to. Used within one event loop."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def held(self, job_id: str) -> AsyncIterator[None]:
        """Hold the lock of a job.

        Raises:
            FullError: others have been before for too long; it is to be tried again.
        """
        lock = self._locks.get(job_id) or asyncio.Lock()
        self._locks[job_id] = lock
        try:
            async with asyncio.timeout(_WAIT_S):
                await lock.acquire()
        except TimeoutError as e:
            raise FullError from e
        try:
            yield
        finally:
            lock.release()
