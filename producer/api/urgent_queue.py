"""One image -> its result while somebody waits: through the queue, ahead of all bulk jobs."""

from __future__ import annotations

import asyncio
import itertools
import math
import secrets
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import msgspec
import redis
from kombu.exceptions import OperationalError

from producer.backend.connection import Connection
from producer.jobs.chunks import Loaded, make_chunk
from producer.jobs.options import JobOptions
from worker.contract.messages import (
    QUEUE,
    TASK,
    URGENT,
    ChunkResult,
    ImageRef,
)
from worker.contract.redis.retry import RetryPolicy
from worker.contract.stores.jobs import LostChunk

# Longer than workers take to see it.
_KEY_TTL_S: Final = 15
_KEY_PAUSE_S: Final = 5.0
_POLL_S: Final = 0.002
_IDLE_S: Final = 0.05
_AWAY_S: Final = 0.5
MOST_WAITING: Final = 256


class BusyError(RuntimeError):
    """As many wait as may."""


class PredictRequest(msgspec.Struct, frozen=True, kw_only=True):
    """An image, by its bytes or its URL, and how it is to be tagged."""

    name: str
    data: bytes | None
    options: JobOptions


class UrgentQueue:
    """Sends requests and hands out replies. Started and stopped with the server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        # All requests to this server are chunks of one job, which nobody lists.
        self._job: Final = f"now-{secrets.token_hex(6)}"
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[ChunkResult | LostChunk]] = {}
        self._loop: asyncio.AbstractEventLoop
        self._stopping = threading.Event()
        self._asked = threading.Event()
        self._announce_at_s = 0.0
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)

    def start(self) -> None:
        """Begin, within the event loop that asks."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """End; nobody is answered any more."""
        self._stopping.set()
        self._asked.set()
        self._thread.join()

    async def ask(self, request: PredictRequest, timeout_s: float) -> ChunkResult | LostChunk:
        """Return the result of a chunk of one image.

        Raises:
            BusyError: too many wait already.
            TimeoutError: no worker has answered.
            redis.RedisError: Redis is away.
        """
        if len(self._waiting) >= MOST_WAITING:
            raise BusyError
        seq = next(self._numbers)
        future = self._waiting[seq] = self._loop.create_future()
        try:
            await asyncio.to_thread(self._send, seq, request)
            self._asked.set()
            return await asyncio.wait_for(future, timeout_s)
        finally:
            del self._waiting[seq]

    def _send(self, seq: int, request: PredictRequest) -> None:
        connection, options = self._connection, request.options
        image = Loaded(ImageRef(request.name), request.data)
        chunk, blobs = make_chunk(self._job, seq, [image], options, connection.keys, urgent=True)
        if blobs:
            connection.blobs.put(blobs, connection.settings.result_ttl_s)
        try:
            connection.app.send_task(
                TASK,
                args=[chunk.to_wire()],
                task_id=chunk.task_id,
                queue=QUEUE,
                priority=URGENT,
                declare=(),
                argsrepr="(1 image, urgent)",
                kwargsrepr="{}",
            )
        except OperationalError as e:
            if isinstance(e.__cause__, redis.ResponseError):
                raise e.__cause__ from e
            raise redis.ConnectionError(str(e)) from e

    def _run(self) -> None:
        # Whoever waits has a time-out: the policy itself needs none but that of stopping.
        policy = RetryPolicy(math.inf, pause_s=_AWAY_S, is_passing=self._goes_on)
        with suppress(redis.RedisError):
            while not self._stopping.is_set():
                policy.call(self._step)

    def _goes_on(self, _error: Exception) -> bool:
        return not self._stopping.is_set()

    def _step(self) -> None:
        if time.monotonic() >= self._announce_at_s:
            connection = self._connection
            connection.client.set(connection.keys.urgent, "1", ex=_KEY_TTL_S)
            self._announce_at_s = time.monotonic() + _KEY_PAUSE_S
        self._look()

    def _look(self) -> None:
        seqs = list(self._waiting)
        if not seqs:
            self._asked.wait(_IDLE_S)
            self._asked.clear()
            return
        found = self._connection.jobs.collect(self._job, seqs)
        if found:
            self._connection.jobs.drop_results(self._job, [one.seq for one in found])
            self._loop.call_soon_threadsafe(self._answer, found)
        time.sleep(_POLL_S)

    def _answer(self, found: Sequence[ChunkResult | LostChunk]) -> None:
        for one in found:
            future = self._waiting.get(one.seq)
            if future is not None and not future.done():
                future.set_result(one)
