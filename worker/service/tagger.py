"""Chunk -> its result: a worker process's model and pipeline, and its stores in Redis."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, Final

import redis
import structlog
from cachetools import TTLCache, cachedmethod

from worker.artifact.manifest import Artifact
from worker.contract.codec import encode
from worker.contract.labels import LabelStore
from worker.contract.messages import (
    Chunk,
    ChunkResult,
    ForeignIdError,
    MessageError,
)
from worker.contract.redis.connections import retrying_client
from worker.contract.settings import Settings
from worker.contract.stores.blobs import BlobStore
from worker.contract.stores.dead_letters import UNREADABLE, DeadLetters, Unread
from worker.contract.stores.jobs import JobStore
from worker.engines.base import Engine
from worker.engines.choose import open_engine
from worker.errors import CancelledError, PoisonError, TaggerError
from worker.labels.disk_store import DiskLabelMatrixStore
from worker.labels.matrix_store import RedisLabelMatrixStore
from worker.malloc import disable_malloc_trim, return_freed_memory
from worker.pipeline.embedding_cache import EmbeddingCache
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.stores import Stores
from worker.service.delivery_counts import Deliveries
from worker.service.exclusive_lock import ExclusiveLock
from worker.service.redis_contact import RedisContact

# For how long a job's state may be out of date: its chunks may be tagged that much longer after it
# was cancelled.
CANCEL_CHECK_S: Final = 0.5
# Jobs whose state is remembered at a time: more than a worker holds chunks of.
_MOST_JOBS: Final = 1024
# How often an image may be attempted alone. The first delivery, among neighbours, comes before.
MAX_ATTEMPTS: Final = 2
# More than the images of a chunk can explain: whatever the reason is, it does not go away.
MAX_DELIVERIES: Final = 20

log = structlog.get_logger()


def _end_worker() -> None:
    """Ask this worker for a warm stop: without its inference thread it can tag nothing."""
    os.kill(os.getpid(), signal.SIGTERM)


class Tagger:
    """Tags chunks with one model. Many threads may call `tag` at once between start and stop.

    `refusal` is why the worker could not be started.
    """

    def __init__(
        self,
        settings: Settings,
        artifact: Artifact,
        name: str,
        load_engine: Callable[[Artifact, Settings], Engine] = open_engine,
    ) -> None:
        client, keys = retrying_client(settings.broker_url), settings.keys
        self._keys = keys
        self._blobs = BlobStore(client, settings.result_ttl_s, keys)
        self._jobs = JobStore(client, settings.result_ttl_s, keys=keys)
        self._cancelled: TTLCache[str, bool] = TTLCache(_MOST_JOBS, CANCEL_CHECK_S)
        self._cancelled_lock = threading.Lock()
        self._deliveries = Deliveries(client, settings.result_ttl_s, keys)
        self._dead_letters = DeadLetters(client, keys)
        self._exclusive_lock = ExclusiveLock()
        self.refusal: TaggerError | None = None
        self.redis_contact: Final = RedisContact()
        matrix_store = RedisLabelMatrixStore(client, keys, on_wait=self._note_progress)
        stores = Stores(
            blobs=self._blobs,
            labels=LabelStore(client, keys),
            matrix_store=DiskLabelMatrixStore(matrix_store),
            embedding_cache=EmbeddingCache(client, artifact, settings),
        )
        self.pipeline = Pipeline(
            settings,
            artifact,
            stores,
            worker=name,
            load_engine=load_engine,
            on_death=_end_worker,
        )

    def start(self) -> None:
        """Load the model and run every batch shape once, so that the first task finds it warm."""
        disable_malloc_trim()
        self.pipeline.start()
        return_freed_memory()
        info = self.pipeline.info()
        log.info(
            "model.warm",
            model=info.model,
            device=info.device,
            precision=info.precision,
            engine=info.engine,
        )

        if info.vocabulary:
            log.info(
                "labels.vocabulary",
                name=info.vocabulary,
                labels=info.vocabulary_labels,
                left_out=info.vocabulary_left_out,
                why="the model has no labels of its own; jobs without labels get these, which "
                "are encoded when the first such job comes, and kept",
            )

    def _note_progress(self) -> None:
        self.pipeline.capacity.note_progress()

    def refuse(self, error: TaggerError) -> None:
        """Note why this worker cannot be started."""
        self.refusal = error

    def problem(self) -> str | None:
        """Return why this worker does no work, or None: a fault of its own, or of Redis."""
        return self.pipeline.problem() or self.redis_contact.problem

    def fatal_problem(self) -> str | None:
        """Return why only a new process would work, or None: Redis may come back."""
        return self.pipeline.problem() or self.redis_contact.stuck

    def stop(self) -> None:
        """Finish the batches at hand and end the threads."""
        self.pipeline.stop()

    def tag(self, chunk: Chunk, received_at_s: float) -> ChunkResult:
        """Return one result per image; a cancelled job's images fail at once.

        Raises:
            redis.RedisError, WorkerGoneError: nothing is known of the images.
        """
        if self._is_cancelled(chunk.job):
            return self.pipeline.refuse(chunk, CancelledError(chunk.job))
        with self._exclusive_lock.together():
            result = self.pipeline.process(chunk, received_at_s)
        log.debug("chunk.done", task=chunk.task_id, images=len(chunk.images), failed=result.failed)
        return result

    def tag_redelivered(self, chunk: Chunk, received_at_s: float) -> ChunkResult:
        """Return what `tag` does for a chunk that was delivered before, mostly to a dead worker.

        Its images are attempted one by one, and nothing else runs in this process meanwhile: an
        image that kills the process is the one that was marked. After `MAX_ATTEMPTS` it is not
        attempted again.

        Raises:
            ChunkDoneError: its results are stored already.
            redis.RedisError, WorkerGoneError: nothing is known of the images.
        """
        if self._is_cancelled(chunk.job):
            return self.pipeline.refuse(chunk, CancelledError(chunk.job))
        count = self._deliveries.again(chunk)
        log.warning("chunk.redelivered", task=chunk.task_id, delivery=count)
        if count > MAX_DELIVERIES:
            poison = PoisonError(f"it was delivered {count - 1} times without a result")
            self._dead_letters.add_chunk(chunk, poison.code, str(poison))
            return self.pipeline.refuse(chunk, poison)
        with self._exclusive_lock.alone():
            return self.pipeline.process(
                chunk, received_at_s, lambda index: self._attempt(chunk, index)
            )

    @cachedmethod(attrgetter("_cancelled"), lock=attrgetter("_cancelled_lock"))
    def _is_cancelled(self, job: str) -> bool:
        """Whether a job is cancelled; the answer may be `CANCEL_CHECK_S` old."""
        return self._jobs.is_cancelled(job)

    @contextmanager
    def _attempt(self, chunk: Chunk, index: int) -> Iterator[None]:
        """Mark an image while it is attempted; what ends the process leaves the mark."""
        if self._deliveries.begin(chunk, index) > MAX_ATTEMPTS:
            poison = PoisonError()
            log.error("image.poison", task=chunk.task_id, path=chunk.images[index].path)
            self._dead_letters.add_image(chunk, index, poison.code, str(poison))
            raise poison
        try:
            yield
        except redis.RedisError:
            # It says nothing about the image, and this process lives: no mark is to be left.
            self._deliveries.end(chunk, index)
            raise
        self._deliveries.end(chunk, index)

    def chunk_of(self, wire: dict[str, Any]) -> Chunk:
        """Return the chunk of a message.

        Raises:
            MessageError: it is none, or names bytes that are not its own.
        """
        chunk = Chunk.from_wire(wire)
        self._keys.check_blobs(chunk)
        return chunk

    def dead_letter(self, task_id: str, wire: Mapping[str, Any], error: MessageError) -> None:
        """Make a message that is not a chunk a dead letter.

        Celery stores the error as the result of `task_id`; `ChunkResults` counts its images then.
        """
        log.error("message.refused", task=task_id, reason=str(error))
        images = wire.get("images")
        lost = len(images) if isinstance(images, list) else 0
        self._dead_letters.add_unread(Unread(encode(wire), task_id, lost), UNREADABLE, str(error))

    def dead_letter_foreign(self, task_id: str, chunk: Chunk, error: ForeignIdError) -> None:
        """Make a chunk that came under another id a dead letter. It is counted in no job."""
        log.error("message.refused", task=task_id, reason=str(error))
        self._dead_letters.add_foreign(chunk, task_id, str(error))

    def release_blobs(self, chunk: Chunk, result: ChunkResult | None = None) -> None:
        """Delete the bytes of a chunk whose result is stored.

        Those of an image that is among the dead letters stay until they expire.
        """
        images = result.images if result else ()
        poisoned = {
            index
            for index, image in enumerate(images)
            if image.error and image.error.code == PoisonError.code
        }
        blobs = {index: image.blob for index, image in enumerate(chunk.images) if image.blob}
        self._blobs.drop(blob for index, blob in blobs.items() if index not in poisoned)
        if poisoned:
            self._blobs.keep(blob for index, blob in blobs.items() if index in poisoned)
