"""Chunk -> results: read, decode, gather into micro-batches, infer, rank; timed throughout.

::

    task thread       process --+                                      +-- rank --> results
    decode processes            +-- read, decode --+                   |
    inference thread                               +-- gather, infer --+
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Final

import structlog

from worker.artifact.manifest import Artifact
from worker.contract.label_check import MOST_TEXTS, LabelCheck
from worker.contract.labels import LabelPack
from worker.contract.messages import Chunk, ChunkResult, ImageResult, MessageError
from worker.contract.settings import Settings
from worker.contract.worker_info import WorkerInfo
from worker.engines.base import Engine, device_memory, device_utilisation
from worker.engines.choose import open_engine
from worker.engines.infer import launch, warm
from worker.errors import ImageError, LabelsMissingError
from worker.images.fetch.pool import FetchPool
from worker.images.open_decoder import open_decoder
from worker.images.read import Blobs, read
from worker.labels.encoder import Encoder, encoder_of
from worker.labels.label_sets import LabelCache, LabelSet
from worker.labels.own_labels import UsedVocabulary
from worker.pipeline.batch_policy import Embeddings, Pixels
from worker.pipeline.batcher import Batcher
from worker.pipeline.capacity import Capacity
from worker.pipeline.finish import TaggingStage
from worker.pipeline.in_flight import ImageTask, to_image_error
from worker.pipeline.prepare import Attempt, DecodeStage, Sources
from worker.pipeline.result import emit
from worker.pipeline.stats import Clock, Figures, Stopwatch
from worker.pipeline.stores import Stores

# The label cache's key for the model's own labels: no pack's hash is empty.
_OWN_LABELS: Final = ""

log = structlog.get_logger()


class Pipeline:
    """One model with its threads. Once started, many task threads may call `process` at once."""

    def __init__(
        self,
        settings: Settings,
        artifact: Artifact,
        stores: Stores,
        *,
        worker: str = "",
        load_engine: Callable[[Artifact, Settings], Engine] = open_engine,
        on_death: Callable[[], None] = lambda: None,
        clock: Clock = time.monotonic,
    ) -> None:
        """Take what the stages need; nothing is loaded yet.

        `worker` is the name in results, the host's by default. `on_death` is called if the
        inference thread dies, or if no process that decodes can be started: nothing can be tagged
        any more, so the worker should stop. It takes in no other chunk then.
        """
        self._settings = settings
        self.artifact = artifact
        self._stores = stores
        self._embedding_cache = stores.usable_cache
        self._worker = worker or socket.gethostname()
        self._load_engine = load_engine
        self._clock = clock
        self._engine: Engine
        self._encoder: Encoder
        self._label_sets: LabelCache
        self._vocabulary = UsedVocabulary()
        self._started = False
        self.figures = Figures()
        self.capacity = Capacity(settings.images_in_flight, clock)
        self._on_death = on_death
        self._batcher = Batcher(
            self._launch, settings.largest_batch, clock=clock, on_death=self._end
        )
        self._decoder = open_decoder(settings, artifact.manifest, self._end)
        self._decode_stage = DecodeStage(
            *(self._decoder, _sources(settings, stores.blobs), self._batcher),
            *(self.capacity, self._embedding_cache),
        )
        self._tagging_stage = TaggingStage(artifact.manifest.scale, self._embedding_cache)

    def start(self) -> None:
        """Load the model, run every batch size until it is warm, start the threads. Once is enough.

        Raises:
            ArtifactError: the model cannot be used.
            DeviceError: the device asked for is not here.
            DecoderStartError: images cannot be decoded in processes, as the settings want.
        """
        if self._started:
            return
        manifest = self.artifact.manifest
        shape_CHW = (3, manifest.preprocessing.height, manifest.preprocessing.width)
        # It loads while the model does.
        self._decoder.launch()
        self._engine = self._load_engine(self.artifact, self._settings)
        wanted = self._settings.largest_batch
        fitting = warm(self._engine, shape_CHW, wanted, manifest.embedding_dim)
        if fitting < wanted:
            log.error("batch.out_of_memory", size=wanted, max_batch=fitting)
            self._batcher.shrink(fitting)
        self._encoder = encoder_of(
            self.artifact,
            self._engine.device,
            self._stores.matrix_store,
            self.capacity.note_progress,
        )
        self._vocabulary = self._encoder.vocabulary()
        self._label_sets = LabelCache(self._encode)
        self._batcher.start(pipelined=self._engine.pipelined)
        self._decode_stage.start()
        self._started = True

    def stop(self) -> None:
        """Finish the images that are held and end the threads; harmless when done twice."""
        # In the direction of the flow, so that what leaves one stage still finds the next running.
        self._decode_stage.stop()
        self._batcher.stop()

    @property
    def died(self) -> bool:
        """Whether nothing can be tagged any more: the inference thread ended, or the decoder."""
        return self._batcher.died or self._decoder.died

    @property
    def is_started(self) -> bool:
        """Whether the model is warm."""
        return self._started

    def problem(self) -> str | None:
        """Return why this worker does not work though there is work, or None."""
        if not self._started:
            return "the model is not warm yet"
        if self._decoder.died:
            return "no process that decodes images can be started"
        if self.died:
            return "the inference thread has ended"
        if (still_s := self.capacity.still_s) > self._settings.stall_timeout_s:
            return f"no image has been done for {still_s:.0f} s, though some are held"
        return None

    def process(
        self, chunk: Chunk, received_at_s: float, attempt: Attempt | None = None
    ) -> ChunkResult:
        """Return one result per image, in the chunk's order. `received_at_s` is wall clock time.

        With an `attempt` the images are processed one after the other, each within
        `attempt(index)`, which may refuse to begin with an `ImageError`.

        Raises:
            redis.RedisError: Redis is away, so nothing is known of the images: try the chunk again.
            WorkerGoneError: this worker is ending: let another try the chunk.
        """
        # At once: until it is counted, there seems to be capacity for another chunk.
        self.capacity.take(len(chunk.images))
        queue_ms = max(0.0, received_at_s - chunk.sent_at_s) * 1000
        image_tasks = [ImageTask(ref, Stopwatch(self._clock, queue_ms)) for ref in chunk.images]
        try:
            label_set = self._label_set(chunk.labels)
        except Exception as e:  # noqa: BLE001 - `to_image_error` tells them apart
            self.capacity.give_back(len(image_tasks))
            return self.refuse(chunk, to_image_error(e))
        if attempt is None:
            self._decode_stage.submit(image_tasks, chunk).wait()
        else:
            self._decode_stage.process_isolated(image_tasks, chunk, attempt)
        return self._sum_up(chunk, self._tagging_stage.complete(image_tasks, chunk, label_set))

    def refuse(self, chunk: Chunk, error: ImageError) -> ChunkResult:
        """Return a result in which every image failed with `error`, without a look at it."""
        return self._sum_up(chunk, [emit(ref, error.failure(), {}) for ref in chunk.images])

    def info(self) -> WorkerInfo:
        """Return what a started worker reports about itself."""
        manifest, settings, engine = self.artifact.manifest, self._settings, self._engine
        decoder = self._decoder.figures
        return WorkerInfo(
            name=self._worker,
            model=self.artifact.id,
            device=engine.device,
            precision=manifest.precision,
            engine=engine.name,
            fallbacks=getattr(engine, "fallbacks", 0),
            out_of_memory=self._batcher.halvings,
            cache_hits=self._embedding_cache.hits if self._embedding_cache else 0,
            decoder=self._decoder.kind,
            decode_timeouts=decoder.timeouts,
            decoder_crashes=decoder.crashes,
            max_batch=self._batcher.max_batch,
            has_labels=manifest.labels is not None,
            vocabulary=self._vocabulary.name,
            vocabulary_labels=self._vocabulary.labels,
            vocabulary_left_out=self._vocabulary.left_out,
            notice=manifest.notice,
            version=version("wanwu-tagger"),
            problem=self.problem(),
            image_roots=settings.image_roots,
            image_urls=settings.image_urls,
            device_memory=device_memory(engine.device),
            device_utilisation=device_utilisation(engine.device),
            images=self.figures.images,
            failed=self.figures.failed,
            images_per_s=self.figures.images_per_s,
            stages_ms=self.figures.percentiles_ms(),
            batch_sizes={str(size): n for size, n in self._batcher.sizes().items()},
        )

    def set_latency_mode(self, wanted: bool) -> None:  # noqa: FBT001 - as whether there is a reason
        """Be ready for urgent images, at the cost of a little idle time of the device."""
        self._batcher.set_latency_mode(wanted)

    def depths(self) -> dict[str, int]:
        """Return how many images are held, and how many of them are where."""
        return {"held": self.capacity.held, **self._batcher.depths()}

    def label_set(self, pack: LabelPack) -> LabelSet:
        """Return the label set of a pack.

        Raises:
            TaggerError: it cannot be encoded.
            redis.RedisError: the matrix store cannot be reached.
        """
        return self._label_sets.get(pack.hash, lambda: pack)

    def check_labels(self, pack_hash: str) -> LabelCheck:
        """Return what the model makes of the labels of a pack; of very many, nothing.

        Raises:
            TaggerError: the pack is gone, or the text tower failed.
            redis.RedisError: Redis is away.
        """
        pack = self._pack(pack_hash)
        texts = len(pack.labels) + sum(map(len, pack.aliases.values()))
        if texts * max(1, len(pack.templates)) + len(pack.background) > MOST_TEXTS:
            return LabelCheck()
        return self._encoder.check(pack)

    def _encode(self, pack: LabelPack) -> LabelSet:
        found = self._encoder.encode(pack)
        if found.left_out:
            log.warning(
                "labels.left_out",
                count=found.left_out,
                why="labels of the vocabulary, or words of the background, that the model cannot "
                "read or not tell from others",
            )
        return found

    def _label_set(self, pack_hash: str | None) -> LabelSet:
        return self._label_sets.get(pack_hash or _OWN_LABELS, lambda: self._pack(pack_hash))

    def _pack(self, pack_hash: str | None) -> LabelPack:
        if pack_hash is None:
            return LabelPack()
        try:
            return self._stores.labels.get(pack_hash)
        except MessageError as e:
            raise LabelsMissingError(str(e)) from e

    def _end(self) -> None:
        """Take in no other chunk: the inference thread has ended on its own."""
        self.capacity.close()
        self._on_death()

    def _launch(self, pixels_CHW: Sequence[Pixels]) -> Callable[[], Embeddings]:
        """Begin a batch, on the inference thread."""
        return launch(self._engine, pixels_CHW)

    def _sum_up(self, chunk: Chunk, images: list[ImageResult]) -> ChunkResult:
        result = ChunkResult(
            v=chunk.v,
            job=chunk.job,
            seq=chunk.seq,
            worker=self._worker,
            device=self._engine.device,
            model=self.artifact.id,
            labels=chunk.labels,
            images=tuple(images),
        )
        self.figures.add(images)
        return result


def _sources(settings: Settings, blobs: Blobs) -> Sources:
    reader = partial(read, blobs=blobs, settings=settings)
    return Sources(reader, settings.decoders, FetchPool(settings))
