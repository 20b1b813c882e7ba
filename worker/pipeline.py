"""Chunk -> results: read, decode, gather into micro-batches, infer, rank, emit; timed throughout.

::

    task thread       process --+                                      +-- rank, emit --> results
    decode threads              +-- read, decode --+                   |
    inference thread                               +-- gather, infer --+
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from importlib.metadata import version
from typing import Any, Final

import numpy as np
import structlog

from worker.backlog import Embeddings, Inferred, Pixels
from worker.batch import Batcher
from worker.budget import Budget
from worker.contract.blobs import BlobStore
from worker.contract.labels import LabelPack, LabelStore
from worker.contract.messages import (
    Chunk,
    ChunkResult,
    Failure,
    ImageResult,
    MessageError,
    Tag,
)
from worker.contract.settings import Settings
from worker.decode import decode, set_up
from worker.emit import Kept, emit
from worker.engines.base import Engine, device_memory, device_utilisation
from worker.engines.choose import open_engine
from worker.errors import ImageError, LabelsMissingError, WorkerGoneError
from worker.flight import Flight, Journey, blame
from worker.infer import launch, warm
from worker.intake import read
from worker.keepsake import embedding_text, thumbnail
from worker.measure import Clock, Figures, Stopwatch
from worker.models.artifact import Artifact
from worker.models.labels import LabelCache, LabelSet, encoder_of
from worker.models.shelf import Shelf
from worker.rank import rank
from worker.recall import Recall
from worker.room import Room

# The label cache's key for the model's own labels: no pack's hash is empty.
_OWN_LABELS: Final = ""
# A thousand images times ten thousand labels would be 80 MB.
_RANKED_TOGETHER: Final = 64

log = structlog.get_logger()


# A chunk's image index -> the time in which that image is tried, alone.
Trial = Callable[[int], AbstractContextManager[object]]


class Pipeline:
    """One model with its threads. Once started, many task threads may call `process` at once."""

    def __init__(
        self,
        settings: Settings,
        artifact: Artifact,
        *,
        blobs: BlobStore,
        labels: LabelStore,
        shelf: Shelf | None = None,
        recall: Recall | None = None,
        worker: str = "",
        load_engine: Callable[[Artifact, Settings], Engine] = open_engine,
        on_death: Callable[[], None] | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """Take what the stages need; nothing is loaded yet.

        Embeddings of images that were seen before come from `recall`, label matrices are shared on
        the `shelf`, if there are such. `worker` is the name in results, the host's by default.
        `on_death` is called if the inference thread dies: nothing can be tagged any more, so the
        worker should stop. No other chunk is welcome then.
        """
        self._settings = settings
        self.artifact = artifact
        self._blobs = blobs
        self._label_store = labels
        self._shelf = shelf
        self._recall = recall if recall and recall.is_on else None
        self._worker = worker or socket.gethostname()
        self._fast = artifact.manifest.decodes_fast(settings.decode)
        self._load_engine = load_engine
        self._clock = clock
        self._engine: Engine
        self._label_sets: LabelCache
        self._started = False
        self._decoders = ThreadPoolExecutor(settings.decoders, thread_name_prefix="decode")
        # Whoever waits for an answer does not wait for what the others have to do.
        self._urgent_decoder = ThreadPoolExecutor(1, thread_name_prefix="decode-urgent")
        self.figures = Figures()
        # As much as the largest image alone, however many threads decode.
        self._budget = Budget(settings.max_pixels)
        self.room = Room(settings.images_in_flight, clock)

        def close() -> None:
            self.room.close()
            if on_death is not None:
                on_death()

        self._batcher = Batcher(self._launch, settings.largest_batch, clock=clock, on_death=close)

    def start(self) -> None:
        """Load the model, run every batch size until it is warm, start the threads. Once is enough.

        Raises:
            ArtifactError: the model cannot be used.
            DeviceError: the device asked for is not here.
        """
        if self._started:
            return
        manifest = self.artifact.manifest
        shape_CHW = (3, manifest.preprocessing.height, manifest.preprocessing.width)
        set_up(self._settings.max_pixels)
        self._engine = self._load_engine(self.artifact, self._settings)
        wanted = self._settings.largest_batch
        fitting = warm(self._engine, shape_CHW, wanted, manifest.embedding_dim)
        if fitting < wanted:
            log.error("batch.out_of_memory", size=wanted, max_batch=fitting)
            self._batcher.shrink(fitting)
        encoder = encoder_of(self.artifact, self._engine.device, self._shelf)
        self._label_sets = LabelCache(encoder.encode)
        self._batcher.start(runs_ahead=self._engine.runs_ahead)
        self._started = True

    def stop(self) -> None:
        """Finish the images at hand and end the threads; harmless when done twice."""
        # In the direction of the flow, so that what leaves one stage still finds the next at work.
        self._decoders.shutdown(wait=True)
        self._urgent_decoder.shutdown(wait=True)
        self._batcher.stop()

    @property
    def died(self) -> bool:
        """Whether the inference thread ended on its own: nothing can be tagged any more."""
        return self._batcher.died

    @property
    def is_started(self) -> bool:
        """Whether the model is warm."""
        return self._started

    def problem(self) -> str | None:
        """Return why this worker does not work though there is work, or None."""
        if not self._started:
            return "the model is not warm yet"
        if self.died:
            return "the inference thread has ended"
        if (still_s := self.room.still_s) > self._settings.stall_timeout_s:
            return f"no image has been done for {still_s:.0f} s, though some are held"
        return None

    def process(
        self, chunk: Chunk, received_at_s: float, trial: Trial | None = None
    ) -> ChunkResult:
        """Return one result per image, in the chunk's order. `received_at_s` is wall clock time.

        With a `trial` the images are tried one after the other, each within `trial(index)`, which
        may refuse to begin with an `ImageError`.

        Raises:
            redis.RedisError: Redis is away, so nothing is known of the images: try the chunk again.
            WorkerGoneError: this worker is at its end: let another try the chunk.
        """
        # At once: until it is counted, a chunk seems to leave room for another.
        self.room.take(len(chunk.images))
        queue_ms = max(0.0, received_at_s - chunk.sent_at_s) * 1000
        journeys = [Journey(ref, Stopwatch(self._clock, queue_ms)) for ref in chunk.images]
        try:
            label_set = self._label_set(chunk.labels)
        except Exception as e:  # noqa: BLE001 - `blame` tells them apart
            self.room.give_back(len(journeys))
            return self.refuse(chunk, blame(e))
        if trial is None:
            self._depart(journeys, chunk).wait()
        else:
            self._try_out(journeys, chunk, trial)
        return self._sum_up(chunk, self._arrive(journeys, chunk, label_set))

    def refuse(self, chunk: Chunk, error: ImageError) -> ChunkResult:
        """Return a result in which every image failed with `error`, untouched."""
        return self._sum_up(chunk, [emit(ref, error.failure(), {}) for ref in chunk.images])

    def info(self) -> dict[str, Any]:
        """Return what Flower and `inspect stats` show of a started worker: plain JSON."""
        manifest = self.artifact.manifest
        return {
            "model": self.artifact.id,
            "device": self._engine.device,
            "precision": manifest.precision,
            "engine": self._engine.name,
            "fallbacks": getattr(self._engine, "fallbacks", 0),
            "out_of_memory": self._batcher.halvings,
            "recalled": self._recall.hits if self._recall else 0,
            "max_batch": self._batcher.max_batch,
            "has_labels": manifest.labels is not None,
            "notice": manifest.notice,
            "version": version("wanwu-tagger"),
            "image_roots": self._settings.image_roots,
            "image_urls": self._settings.image_urls,
            "device_memory": device_memory(self._engine.device),
            "device_utilisation": device_utilisation(self._engine.device),
            "images": self.figures.images,
            "failed": self.figures.failed,
            "images_per_s": self.figures.images_per_s,
            "stages_ms": self.figures.percentiles_ms(),
            "batch_sizes": {str(size): n for size, n in self._batcher.sizes().items()},
        }

    def hold_back(self, wanted: bool) -> None:  # noqa: FBT001 - as whether there is a reason
        """Be ready for urgent images, at the price of a little idle time of the device."""
        self._batcher.hold_back(wanted)

    def depths(self) -> dict[str, int]:
        """Return how many images are held, and of them decoded, ready for a batch, and in one."""
        return {"held": self.room.held, **self._batcher.depths()}

    def label_set(self, pack: LabelPack) -> LabelSet:
        """Return the label set of a pack that is at hand.

        Raises:
            TaggerError: it cannot be encoded.
            redis.RedisError: the shelf is away.
        """
        return self._label_sets.get(pack.hash, lambda: pack)

    def _label_set(self, pack_hash: str | None) -> LabelSet:
        def fetch() -> LabelPack:
            if pack_hash is None:
                return LabelPack()
            try:
                return self._label_store.get(pack_hash)
            except MessageError as e:
                raise LabelsMissingError(str(e)) from e

        return self._label_sets.get(pack_hash or _OWN_LABELS, fetch)

    def _depart(self, journeys: Sequence[Journey], chunk: Chunk) -> Flight:
        # All are announced before the first is decoded: the batcher waits for what can still come.
        self._batcher.expect(len(journeys))
        flight = Flight(journeys, self.room.give_back)
        decoders = self._urgent_decoder if chunk.urgent else self._decoders
        for journey in journeys:
            decoders.submit(self._prepare, flight, journey, chunk)
        return flight

    def _try_out(self, journeys: Sequence[Journey], chunk: Chunk, trial: Trial) -> None:
        """Let the images go one by one, and give back the room of those that did not."""
        waiting = len(journeys)
        try:
            for index, journey in enumerate(journeys):
                try:
                    with trial(index):
                        # Once it has left, it gives its room back when it lands.
                        waiting -= 1
                        self._depart([journey], chunk).wait()
                        # What says nothing about the image must not end its trial well.
                        journey.verdict()
                except ImageError as e:
                    journey.outcome = e
        finally:
            self.room.give_back(waiting)

    def _prepare(self, flight: Flight, journey: Journey, chunk: Chunk) -> None:
        """Read and decode, on a decode thread; whatever happens, the image lands."""
        try:
            data = self._read(journey)
            if (known := self._recalled(journey, data, chunk)) is not None:
                self._batcher.forget()
                flight.land(journey, known)
                return
            pixels_CHW = self._decode(journey, data, chunk.thumbnail_px)
        except BaseException as e:  # noqa: BLE001 - `blame` tells them apart
            self._batcher.forget()
            flight.land(journey, e)
            return
        try:
            future = self._batcher.put(pixels_CHW, urgent=chunk.urgent)
            flight.land_with(journey, future)
        except WorkerGoneError as e:
            flight.land(journey, e)

    def _read(self, journey: Journey) -> bytes:
        with journey.watch.time("read_ms"):
            data, journey.stamp = read(journey.ref, self._blobs, self._settings)
        return data

    def _recalled(self, journey: Journey, data: bytes, chunk: Chunk) -> Inferred | None:
        """Return what is known of the same bytes, if that is all that is asked for."""
        if self._recall is None:
            return None
        key = self._recall.key_of(data)
        embedding_D = None if chunk.thumbnail_px else self._recall.get(key)
        if embedding_D is None:
            journey.key = key
            return None
        return Inferred(embedding_D, 0.0, 0.0, 0)

    def _decode(self, journey: Journey, data: bytes, thumbnail_px: int) -> Pixels:
        def look(whole: Pixels) -> None:
            if thumbnail_px:
                journey.thumbnail = thumbnail(whole, thumbnail_px)

        with journey.watch.time("decode_ms"):
            return decode(
                data,
                self.artifact.manifest.preprocessing,
                max_pixels=self._settings.max_pixels,
                fast=self._fast,
                max_side=self._settings.max_side,
                budget=self._budget,
                look=look,
            )

    def _launch(self, pixels_CHW: Sequence[Pixels]) -> Callable[[], Embeddings]:
        """Begin a batch, on the inference thread."""
        return launch(self._engine, pixels_CHW)

    def _arrive(
        self, journeys: Sequence[Journey], chunk: Chunk, label_set: LabelSet
    ) -> list[ImageResult]:
        """Tag the images that have landed, on the task's thread."""
        outcomes = [one.verdict() for one in journeys]
        self._remember(journeys, outcomes)
        inferred = [one for one in outcomes if not isinstance(one, ImageError)]
        tags = iter(self._tag(inferred, chunk, label_set))
        results = []
        for journey, outcome in zip(journeys, outcomes, strict=True):
            journey.watch.stop()
            readings_ms = journey.watch.readings_ms
            kept = Kept(journey.stamp, thumbnail=journey.thumbnail)
            if isinstance(outcome, ImageError):
                results.append(emit(journey.ref, outcome.failure(), readings_ms, kept=kept))
                continue
            if outcome.batch_size:
                readings_ms["batch_wait_ms"] = outcome.batch_wait_ms
                readings_ms["infer_ms"] = outcome.infer_ms
            if chunk.embeddings:
                kept = kept._replace(embedding=embedding_text(outcome.embedding_D))
            results.append(
                emit(journey.ref, next(tags), readings_ms, outcome.batch_size or None, kept)
            )
        return results

    def _remember(
        self, journeys: Sequence[Journey], outcomes: Sequence[Inferred | ImageError]
    ) -> None:
        if self._recall is not None:
            pairs = zip(journeys, outcomes, strict=True)
            self._recall.put(
                [
                    (journey.key, outcome.embedding_D)
                    for journey, outcome in pairs
                    if journey.key and isinstance(outcome, Inferred)
                ]
            )

    def _tag(
        self, inferred: Sequence[Inferred], chunk: Chunk, label_set: LabelSet
    ) -> Sequence[tuple[Tag, ...] | Failure]:
        """Return the tags of each image, or why there are none."""
        found: list[tuple[Tag, ...] | Failure] = []
        for start in range(0, len(inferred), _RANKED_TOGETHER):
            some = inferred[start : start + _RANKED_TOGETHER]
            try:
                found += self._rank(some, chunk, label_set)
            except Exception as e:  # noqa: BLE001 - `blame` tells them apart
                found += [blame(e).failure()] * len(some)
        return found

    def _rank(
        self, inferred: Sequence[Inferred], chunk: Chunk, label_set: LabelSet
    ) -> list[tuple[Tag, ...]]:
        return rank(
            np.stack([one.embedding_D for one in inferred]),
            label_set,
            self.artifact.manifest.logit_scale,
            top_k=chunk.top_k,
            threshold=chunk.threshold,
        )

    def _sum_up(self, chunk: Chunk, images: list[ImageResult]) -> ChunkResult:
        result = ChunkResult(
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
