"""Jobs that clients follow -> what is new of each: one look at all of them, however many wait.

A job with a thousand followers is asked about as often as one with a single one.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Final

import redis

from producer.api.jobs import ApiJobs
from worker.contract.stores.jobs import Job, NoSuchJobError

LOOK_S: Final = 0.2
# Looking takes at most a fifth of the time.
_LOOK_RATIO: Final = 4
# Of jobs that stand still so many are searched for lost messages at a time.
_SEARCHED: Final = 8
# A Redis that is away for longer ends the streams; clients begin them again.
_AWAY_S: Final = 20.0


class BrokenError(RuntimeError):
    """The rest of a stream cannot be had: it ends as if the connection had broken."""


class Watch:
    """What was last seen of a job. `done` has a bit for each of its chunks."""

    def __init__(self) -> None:
        self.job: Job | None = None
        self.done = b""
        self.version = 0
        self.followers = 0
        self._error: Exception | None = None
        self._changed = asyncio.Event()

    async def newer_than(self, version: int) -> Job:
        """Return the job once it has changed.

        Raises:
            BrokenError: it is gone, or cannot be looked at any more.
        """
        while self.version <= version or self.job is None:
            if self._error is not None:
                raise BrokenError from self._error
            await self._changed.wait()
        return self.job

    def see(self, job: Job, done: bytes) -> None:
        """Tell all who wait, if there is something new."""
        if (job, done) != (self.job, self.done):
            self.job, self.done = job, done
            self.version += 1
            self._tell()

    def fail(self, error: Exception) -> None:
        """Let nobody wait any more."""
        self._error = error
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Watches:
    """Looks at all jobs that are followed, while there are any. Used within one event loop."""

    def __init__(self, jobs: ApiJobs, pool: ThreadPoolExecutor) -> None:
        self._jobs = jobs
        self._pool = pool
        self._watches: dict[str, Watch] = {}
        self._task: asyncio.Task[None] | None = None
        self._turn = itertools.count()

    @asynccontextmanager
    async def of(self, job_id: str) -> AsyncIterator[Watch]:
        """Yield what is seen of a job."""
        watch = self._watches.setdefault(job_id, Watch())
        watch.followers += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        try:
            yield watch
        finally:
            watch.followers -= 1
            if not watch.followers and self._watches.get(job_id) is watch:
                del self._watches[job_id]

    def fail(self, error: Exception) -> None:
        """Let nobody wait any more."""
        for watch in self._watches.values():
            watch.fail(error)
        self._watches.clear()

    async def _run(self) -> None:
        loop, answered_s = asyncio.get_running_loop(), time.monotonic()
        while names := list(self._watches):
            began_s = time.monotonic()
            try:
                found = await loop.run_in_executor(self._pool, self._jobs.progress, names)
                answered_s = time.monotonic()
                self._tell(names, found)
                await loop.run_in_executor(self._pool, self._search)
            except redis.RedisError as e:
                if time.monotonic() - answered_s > _AWAY_S:
                    self.fail(e)
            except Exception as e:  # noqa: BLE001 - those who wait must not wait for ever
                self.fail(e)
            took_s = time.monotonic() - began_s
            await asyncio.sleep(max(LOOK_S, _LOOK_RATIO * took_s))

    def _tell(self, names: Sequence[str], found: Mapping[str, tuple[Job, bytes]]) -> None:
        for name in names:
            watch = self._watches.get(name)
            if watch is None:
                continue
            if name in found:
                watch.see(*found[name])
            else:
                watch.fail(NoSuchJobError(name))
                del self._watches[name]

    def _search(self) -> None:
        """Find out whether messages have vanished, of some of the jobs by turns."""
        jobs = [watch.job for watch in list(self._watches.values()) if watch.job is not None]
        open_jobs = [job for job in jobs if job.outstanding]
        count = min(_SEARCHED, len(open_jobs))
        for _ in range(count):
            self._jobs.search(open_jobs[next(self._turn) % len(open_jobs)])
