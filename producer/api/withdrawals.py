"""Requests that nobody waits for -> nothing of them in Redis, also of what workers hold."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from producer.backend.connection import Connection
from worker.contract.queue.urgent import withdraw

# What a worker holds has its result within this time, or comes back to the queue. Results are asked
# for each so many seconds, and the queue less often: to look is more work there.
_LATE_S: Final = 180.0
_PAUSE_S: Final = 1.0
_QUEUE_PAUSE_S: Final = 10.0
_AT_ONCE: Final = 256


class Withdrawals:
    """Chunks of one job that are to vanish. Added by any thread; the steps are those of one."""

    def __init__(
        self, connection: Connection, job: str, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._connection = connection
        self._job = job
        self._now = now
        self._given_up: deque[tuple[int, tuple[str, ...]]] = deque()
        # Those that workers hold, each with when it is forgotten.
        self._held: dict[int, float] = {}
        self._look_at_s = self._queue_at_s = 0.0

    def add(self, seq: int, blobs: tuple[str, ...]) -> None:
        """Let a chunk vanish with the next step."""
        self._given_up.append((seq, blobs))

    def forget(self, seqs: Iterable[int]) -> None:
        """Look no more for results that came and were dropped. By the thread of the steps."""
        for seq in seqs:
            self._held.pop(seq, None)

    def step(self, *, is_last: bool = False) -> None:
        """Take out what nobody waits for; now and then, drop the results of what workers held.

        Raises:
            redis.RedisError: Redis is away; the next step does it.
        """
        while self._given_up:
            self._withdraw(min(_AT_ONCE, len(self._given_up)))
        if self._held and (is_last or self._now() >= self._look_at_s):
            self._look_at_s = self._now() + _PAUSE_S
            self._drop_results()
        if self._held and (is_last or self._now() >= self._queue_at_s):
            self._queue_at_s = self._now() + _QUEUE_PAUSE_S
            self._take_out_returned()

    def _withdraw(self, count: int) -> None:
        some = [self._given_up[place] for place in range(count)]
        seqs = [seq for seq, _ in some]
        blobs = [blob for _, names in some for blob in names]
        connection = self._connection
        taken = withdraw(connection.client, connection.keys, self._job, seqs, blobs)
        for _ in some:
            self._given_up.popleft()
        until_s = self._now() + _LATE_S
        self._held |= {seq: until_s for seq in seqs if seq not in taken}

    def _drop_results(self) -> None:
        jobs = self._connection.jobs
        held = list(self._held)
        found = [one.seq for one in jobs.collect(self._job, held)]
        jobs.drop_results(self._job, found)
        now_s = self._now()
        for seq in found:
            del self._held[seq]
        self._held = {seq: until_s for seq, until_s in self._held.items() if until_s > now_s}

    def _take_out_returned(self) -> None:
        """Take out what a worker that ended has left to others."""
        connection = self._connection
        for seq in withdraw(connection.client, connection.keys, self._job, list(self._held), ()):
            del self._held[seq]
