"""One image -> its result while somebody waits: through the queue, ahead of all bulk jobs.

::

    ask --send--> queue --worker--> result, stored and published --pushed--> who asks
     |                                      +-- look, if that is lost --+
     +-- gives up, hangs up --withdraw--> out of the queue, and the bytes out of Redis
"""

from __future__ import annotations

import asyncio
import itertools
import math
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec
import redis
from kombu.exceptions import OperationalError

from producer.api.pushed_answers import URGENT_JOB, PushedAnswers
from producer.api.withdrawals import Withdrawals
from producer.backend.connection import Connection
from producer.jobs.chunks import Loaded, OutgoingChunk, make_chunk
from producer.jobs.options import JobOptions
from worker.contract.messages import (
    QUEUE,
    TASK,
    URGENT,
    ChunkResult,
    ImageRef,
)
from worker.contract.redis.connections import single_try_client
from worker.contract.redis.retry import RetryPolicy
from worker.contract.stores.jobs import LostChunk

# How often who waits is looked for, where results are pushed: then a look finds what was lost.
_PUSHED_LOOK_S: Final = 0.25
# Longer than workers take to see it.
_KEY_TTL_S: Final = 15
_KEY_PAUSE_S: Final = 5.0
_POLL_S: Final = 0.002
# Looking for results takes at most a third of the time.
_POLL_RATIO: Final = 2
_IDLE_S: Final = 0.05
_AWAY_S: Final = 0.5
MOST_WAITING: Final = 256
# Longer than anybody waits. Should this process be killed, bytes are gone soon.
_BLOB_TTL_S: Final = 90
_SENDERS: Final = 8


class BusyError(RuntimeError):
    """As many wait as may."""


class StoppingError(RuntimeError):
    """The server stops."""


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
        self._job: Final = f"{URGENT_JOB}{secrets.token_hex(6)}"
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[ChunkResult | LostChunk]] = {}
        self._withdrawals = Withdrawals(connection, self._job)
        client = single_try_client(connection.settings.results)
        self._pushed = PushedAnswers(client, connection.keys, self._job, self._hear)
        # Answers that were pushed and are still stored; who waited when that was last looked at.
        self._stored: deque[int] = deque()
        self._looked_for: set[int] = set()
        self._loop: asyncio.AbstractEventLoop
        self._stopping = threading.Event()
        self._asked = threading.Event()
        self._announce_at_s = 0.0
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)
        self._senders = ThreadPoolExecutor(_SENDERS, "urgent")

    def start(self) -> None:
        """Begin, within the event loop that asks."""
        self._loop = asyncio.get_running_loop()
        self._pushed.start()
        self._thread.start()

    def refuse_all(self) -> None:
        """Let all who wait go: the server stops."""
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(StoppingError())

    async def stop(self) -> None:
        """End; nobody is answered any more, and nothing stays in the queue."""
        await asyncio.to_thread(self._senders.shutdown)
        # What was being sent is withdrawn by whoever asked for it.
        await asyncio.sleep(0)
        self._stopping.set()
        self._asked.set()
        await asyncio.to_thread(self._pushed.stop)
        await asyncio.to_thread(self._thread.join)

    async def ask(
        self,
        request: PredictRequest,
        timeout_s: float,
        on_sent: Callable[[], object] = lambda: None,
    ) -> ChunkResult | LostChunk:
        """Return the result of a chunk of one image; `on_sent` is called when its bytes are away.

        Whoever stops waiting, for whatever reason, leaves nothing in Redis.

        Raises:
            BusyError: too many wait already.
            StoppingError: the server stops.
            TimeoutError: no worker has answered.
            redis.RedisError: Redis is away.
        """
        if len(self._waiting) >= MOST_WAITING:
            raise BusyError
        seq = next(self._numbers)
        future: asyncio.Future[ChunkResult | LostChunk] = self._loop.create_future()
        # Who fails while it sends looks at no answer.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._waiting[seq] = future
        outgoing = self._chunk_of(seq, request)
        blobs = tuple(outgoing.blobs)
        sending = self._loop.run_in_executor(self._senders, self._send, outgoing)
        # Who waits need not keep the bytes.
        del request, outgoing
        try:
            async with asyncio.timeout(timeout_s):
                # It cannot be stopped half-way: what is sent is withdrawn afterwards.
                await asyncio.shield(sending)
                on_sent()
                if not self._pushed.is_live:
                    self._asked.set()
                return await future
        except BaseException:
            sending.add_done_callback(partial(self._give_up, seq, blobs))
            raise
        finally:
            del self._waiting[seq]

    def _give_up(self, seq: int, blobs: tuple[str, ...], sending: asyncio.Future[None]) -> None:
        if not sending.cancelled():
            sending.exception()  # Whoever asked has it, or is gone.
        self._withdrawals.add(seq, blobs)
        self._asked.set()

    def _chunk_of(self, seq: int, request: PredictRequest) -> OutgoingChunk:
        image = Loaded(ImageRef(request.name), request.data)
        keys = self._connection.keys
        return make_chunk(self._job, seq, [image], request.options, keys, urgent=True)

    def _send(self, outgoing: OutgoingChunk) -> None:
        connection, (chunk, blobs) = self._connection, outgoing
        if blobs:
            connection.blobs.put(blobs, _BLOB_TTL_S)
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
            self._drop_stored()
            self._withdrawals.step(is_last=True)

    def _goes_on(self, _error: Exception) -> bool:
        return not self._stopping.is_set()

    def _step(self) -> None:
        if time.monotonic() >= self._announce_at_s:
            connection = self._connection
            connection.client.set(connection.keys.urgent, "1", ex=_KEY_TTL_S)
            self._announce_at_s = time.monotonic() + _KEY_PAUSE_S
        self._withdrawals.step()
        self._drop_stored()
        began_s, seqs = time.monotonic(), list(self._waiting)
        if self._pushed.is_live:
            self._look(self._looked_for.intersection(seqs))
            self._looked_for = set(seqs)
            self._rest(_PUSHED_LOOK_S)
        elif seqs:
            self._look(seqs)
            time.sleep(max(_POLL_S, _POLL_RATIO * (time.monotonic() - began_s)))
        else:
            self._rest(_IDLE_S)

    def _rest(self, pause_s: float) -> None:
        """Wait until there is something to do, at most so long."""
        self._asked.wait(pause_s)
        self._asked.clear()

    def _look(self, seqs: Collection[int]) -> None:
        """Ask for the results of some who wait."""
        if found := self._connection.jobs.collect(self._job, [*seqs]):
            self._connection.jobs.drop_results(self._job, [one.seq for one in found])
            self._loop.call_soon_threadsafe(self._answer, found)

    def _hear(self, found: ChunkResult | LostChunk) -> None:
        """Answer with what was pushed; what is stored of it is dropped soon, with others."""
        self._stored.append(found.seq)
        self._loop.call_soon_threadsafe(self._answer, (found,))

    def _drop_stored(self) -> None:
        some = [*self._stored]
        if some:
            self._connection.jobs.drop_results(self._job, some)
            self._withdrawals.forget(some)
        for _ in some:
            self._stored.popleft()

    def _answer(self, found: Sequence[ChunkResult | LostChunk]) -> None:
        for one in found:
            future = self._waiting.get(one.seq)
            if future is not None and not future.done():
                future.set_result(one)
