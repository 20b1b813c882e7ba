"""Chunks -> queue, several in one round trip, in a thread of its own.

Work-conserving: what is ready goes at once. So a lone chunk waits for nothing, and the chunks that
gather while others are on their way travel together.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

import msgspec
import redis
from celery import Celery
from kombu.exceptions import BatchPublishError

from producer.jobs.chunks import OutgoingChunk
from producer.jobs.window import WindowClosedError
from worker.contract.messages import QUEUE, TASK, Chunk
from worker.contract.queue.fair import IMAGES_HEADER
from worker.contract.redis.memory import MemoryWatch
from worker.contract.redis.retry import RetryPolicy
from worker.contract.stores.blobs import BlobStore
from worker.contract.stores.jobs import JobStore

MAX_CHUNKS: Final = 64
# Chunks may hold their images' bytes until they are sent.
MAX_BYTES: Final = 32 * 1024 * 1024
# When nothing is sent for so long, the job's record says that all is in the queue.
_IDLE_S: Final = 1.0
# What an image's reference takes in Redis, somewhat more than usual; how often that is asked.
_MESSAGE_BYTES: Final = 512
_MEMORY_PAUSE_S: Final = 1.0
# So long a chunk is tried again where somebody waits who can send it again.
_PROMPT_S: Final = 2.0
_PROMPT_PAUSE_S: Final = 0.2


class Stores(NamedTuple):
    """Where chunks go, and where they are counted."""

    app: Celery
    jobs: JobStore
    blobs: BlobStore
    # By it senders wait while the memory of Redis is short; None: they do not.
    memory: MemoryWatch | None = None


class Publisher:
    """Holds a few chunks of one job and sends them in order; `put` waits while it is full."""

    def __init__(
        self,
        stores: Stores,
        on_sent: Callable[[int], None],
        *,
        retry_timeout_s: float = 0.0,
        sent: tuple[int, int] = (0, 0),
    ) -> None:
        """Take where to send to; `on_sent` is called with how many images have gone.

        A Redis that is away is asked again for `retry_timeout_s`. Of a job that goes on so many
        images and chunks have been `sent` before.
        """
        self._stores = stores
        self._retry_timeout_s = retry_timeout_s
        self._on_sent = on_sent
        self._waiting: deque[OutgoingChunk] = deque()
        self._bytes = self._most_blobs = 0
        self._images, self._chunks = sent
        self._job, self._published = "", self._chunks
        # Of what was counted last, what has surely not arrived: Redis has refused it.
        self._refused: Sequence[OutgoingChunk] = ()
        self._closing = False
        self._stopping = threading.Event()
        # Whether nothing is sent because the memory of Redis is short.
        self.is_held_up = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def put(self, outgoing: OutgoingChunk) -> None:
        """Hand over a chunk, as soon as it fits.

        Raises:
            BaseException: what went wrong while sending earlier ones; this one is not sent.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or self._has_room(outgoing))
            if self._error is not None:
                raise self._error
            self._waiting.append(outgoing)
            self._bytes += outgoing.size_bytes
            self._changed.notify_all()

    def close(self) -> None:
        """Wait until everything has gone.

        Raises:
            BaseException: what went wrong.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        if self._error is not None:
            raise self._error
        self._note_published()

    def take_back(self) -> None:
        """Leave nothing of what Redis has refused: it is to be sent again, by whoever sent it."""
        if self._refused:
            blobs = [key for one in self._refused for key in one.blobs]
            self._stores.jobs.take_back(self._job, self._images, self._chunks, blobs)

    def _has_room(self, outgoing: OutgoingChunk) -> bool:
        if not self._waiting:
            return True
        fits = len(self._waiting) < MAX_CHUNKS
        return fits and self._bytes + outgoing.size_bytes <= MAX_BYTES

    def _run(self) -> None:
        try:
            while waiting := self._take():
                for part in self._parts(waiting):
                    send = partial(self._send, part)
                    self._on_sent(RetryPolicy(self._retry_timeout_s).call(send))
        except BaseException as e:  # noqa: BLE001 - raised in the thread that hands chunks over
            with self._changed:
                self._error = e
                self._changed.notify_all()

    def _parts(self, waiting: list[OutgoingChunk]) -> Iterator[list[OutgoingChunk]]:
        """Yield what can be sent together: all or, where memory is short, one after the other.

        Raises:
            WindowClosedError: somebody stops the sending while memory is short.
        """
        if self._fits(waiting):
            yield waiting
            return
        for one in waiting:
            while not self._fits([one]):
                self._note_published()
                self.is_held_up = True
                if self._stopping.wait(_MEMORY_PAUSE_S):
                    raise WindowClosedError
            self.is_held_up = False
            yield [one]

    def _fits(self, outgoing: Sequence[OutgoingChunk]) -> bool:
        """Whether these fit into Redis; while it cannot be asked, that is found out later."""
        if self._stores.memory is None:
            return True
        images = sum(len(one.chunk.images) for one in outgoing)
        size_bytes = sum(one.size_bytes for one in outgoing) + images * _MESSAGE_BYTES
        with suppress(redis.RedisError):
            return self._stores.memory.take(size_bytes)
        return True

    def stop(self) -> None:
        """Wait no more for memory; what has not gone by then does not go."""
        self._stopping.set()

    def _take(self) -> list[OutgoingChunk]:
        """Wait for chunks and take all; none means that no more will come."""
        while True:
            with self._changed:
                is_news = self._chunks > self._published
                if self._changed.wait_for(self._is_due, _IDLE_S if is_news else None):
                    waiting = list(self._waiting)
                    self._waiting.clear()
                    self._bytes = 0
                    self._changed.notify_all()
                    return waiting
            self._note_published()

    def _is_due(self) -> bool:
        return bool(self._waiting) or self._closing

    def _note_published(self) -> None:
        """Let others know that nothing is on its way: what is not in Redis then is lost."""
        if self._chunks > self._published:
            with suppress(redis.RedisError):
                self._stores.jobs.set_published(self._job, self._chunks)
                self._published = self._chunks

    def _send(self, outgoing: Sequence[OutgoingChunk]) -> int:
        """Send them and return how many images they hold; the same may be sent twice."""
        self._job, images = outgoing[0].chunk.job, sum(len(one.chunk.images) for one in outgoing)
        self._refused = outgoing
        # Counted first: a worker that is quicker than this line must not count beyond the total,
        # and bytes of what is not counted would be left if this process ended.
        totals = {"images": self._images + images, "chunks": self._chunks + len(outgoing)}
        self._most_blobs = max(self._most_blobs, *(len(one.blobs) for one in outgoing))
        more = {"published": self._chunks, "blobs": self._most_blobs}
        self._stores.jobs.set_sent(self._job, **totals, **more)
        self._published = self._chunks
        blobs = {key: data for one in outgoing for key, data in one.blobs.items()}
        if blobs:
            self._stores.blobs.put(blobs)
        # Where it is not known whether some of them have arrived, all are sent again: a chunk that
        # comes twice has the same task id and is counted once.
        is_patient = self._retry_timeout_s > 0
        policy = RetryPolicy() if is_patient else RetryPolicy(_PROMPT_S, pause_s=_PROMPT_PAUSE_S)
        policy.call(partial(self._publish, [one.chunk for one in outgoing]))
        self._stores.jobs.confirm_sent(self._retry_timeout_s)
        self._images, self._chunks = totals["images"], totals["chunks"]
        return images

    def _publish(self, chunks: Sequence[Chunk]) -> None:
        refused, self._refused = self._refused, ()
        try:
            self._publish_together(chunks)
        except BatchPublishError as e:
            # Of several, some may have arrived before one was refused.
            if len(chunks) == 1 and isinstance(e.__cause__, redis.ResponseError):
                self._refused = refused
            # Whether to try again depends on what Redis or the connection said.
            raise (e.__cause__ or e) from e

    def _publish_together(self, chunks: Sequence[Chunk]) -> None:
        app = self._stores.app
        with app.producer_or_acquire() as producer, producer.batch(max_size=MAX_CHUNKS + 1):
            for chunk in chunks:
                dated = msgspec.structs.replace(chunk, sent_at_s=time.time())
                app.send_task(
                    TASK,
                    args=[dated.to_wire()],
                    task_id=dated.task_id,
                    queue=QUEUE,
                    # How much of its job's turn the chunk takes.
                    headers={IMAGES_HEADER: len(dated.images)},
                    producer=producer,
                    retry=False,
                    # A queue in Redis needs no declaration: it is a list.
                    declare=(),
                    # What Flower shows; made of all the arguments, it would cost more than sending.
                    argsrepr=f"({len(dated.images)} images)",
                    kwargsrepr="{}",
                )
