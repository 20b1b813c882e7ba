"""What one worker process holds: a model in a pipeline, and its places in Redis."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Final

import structlog

from worker.contract.blobs import BlobStore
from worker.contract.broker import patient_client
from worker.contract.jobs import JobStore
from worker.contract.labels import LabelStore
from worker.contract.messages import Chunk, ChunkResult
from worker.contract.settings import Settings
from worker.engines.base import Engine
from worker.engines.choose import open_engine
from worker.errors import CancelledError, TaggerError
from worker.memory import keep_freed_memory
from worker.models.artifact import Artifact
from worker.models.shelf import RedisShelf
from worker.pipeline import Pipeline
from worker.remember import Remembered

# So long a cancelled job's chunks may still be tagged: a job is asked about at most so often.
CANCEL_PAUSE_S: Final = 0.5

log = structlog.get_logger()


def _end_worker() -> None:
    """Ask this worker for a warm stop: without its inference thread it can tag nothing."""
    os.kill(os.getpid(), signal.SIGTERM)


class Tagger:
    """Tags chunks with one model. Many threads may call `tag` at once between start and stop.

    `refusal` is why the model could not be started, for whoever started the process.
    """

    def __init__(
        self,
        settings: Settings,
        artifact: Artifact,
        name: str,
        load_engine: Callable[[Artifact, Settings], Engine] = open_engine,
    ) -> None:
        client = patient_client(settings.broker_url)
        self._blobs = BlobStore(client, settings.result_ttl_s)
        self._cancelled = Remembered(
            JobStore(client, settings.result_ttl_s).is_cancelled, CANCEL_PAUSE_S
        )
        self.refusal: TaggerError | None = None
        self.pipeline = Pipeline(
            settings,
            artifact,
            blobs=self._blobs,
            labels=LabelStore(client),
            shelf=RedisShelf(client),
            worker=name,
            load_engine=load_engine,
            on_death=_end_worker,
        )

    def start(self) -> None:
        """Load the model and run every batch shape once, so that the first task finds it warm."""
        keep_freed_memory()
        self.pipeline.start()
        info = self.pipeline.info()
        log.info(
            "model.warm", **{key: info[key] for key in ("model", "device", "precision", "engine")}
        )

    def stop(self) -> None:
        """Finish the batches at hand and end the threads."""
        self.pipeline.stop()

    def tag(self, chunk: Chunk, received_at_s: float) -> ChunkResult:
        """Return one result per image; a cancelled job's images fail at once."""
        if self._cancelled(chunk.job):
            return self.pipeline.refuse(chunk, CancelledError(chunk.job))
        result = self.pipeline.process(chunk, received_at_s)
        log.debug("chunk.done", task=chunk.task_id, images=len(chunk.images), failed=result.failed)
        return result

    def settle(self, chunk: Chunk) -> None:
        """Free what a chunk whose result is stored needs no more."""
        self._blobs.drop(image.blob for image in chunk.images if image.blob)
