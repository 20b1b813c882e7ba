"""Images of a chunk -> decoded, into the batcher; or landed early: known already, or failed.

::

    task thread       depart --+                       +--> Flight, on which the task waits
    decode threads             +-- read, decode, put --+
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from worker.budget import Budget
from worker.errors import ImageError, WorkerGoneError
from worker.images.decode import decode
from worker.images.thumbnail import thumbnail
from worker.pipeline.batch_policy import Inferred, Pixels
from worker.pipeline.in_flight import Flight, Journey

if TYPE_CHECKING:
    from worker.artifact.manifest import Artifact
    from worker.contract.messages import Chunk, ImageRef
    from worker.contract.settings import Settings
    from worker.images.read import Original
    from worker.pipeline.batcher import Batcher
    from worker.pipeline.capacity import Room
    from worker.pipeline.embedding_cache import Recall

# A chunk's image index -> the time in which that image is tried, alone.
Trial = Callable[[int], AbstractContextManager[object]]


class Departures:
    """The threads that read and decode. Many task threads may let chunks go at once."""

    def __init__(
        self,
        settings: Settings,
        artifact: Artifact,
        read: Callable[[ImageRef], Original],
        batcher: Batcher,
        room: Room,
        recall: Recall | None,
    ) -> None:
        """Take from where images are read, where they go, and what is known of some already."""
        self._preprocessing = artifact.manifest.preprocessing
        self._fast = artifact.manifest.decodes_fast(settings.decode)
        self._max_pixels = settings.max_pixels
        self._max_side = settings.max_side
        self._read_ref = read
        self._batcher = batcher
        self._room = room
        self._recall = recall
        # As much as the largest image alone, however many threads decode.
        self._budget = Budget(settings.max_pixels)
        self._decoders = ThreadPoolExecutor(settings.decoders, thread_name_prefix="decode")
        # Whoever waits for an answer does not wait for what the others have to do.
        self._urgent_decoder = ThreadPoolExecutor(1, thread_name_prefix="decode-urgent")

    def stop(self) -> None:
        """Let what has departed be decoded, and end the threads; harmless when done twice."""
        self._decoders.shutdown(wait=True)
        self._urgent_decoder.shutdown(wait=True)

    def depart(self, journeys: Sequence[Journey], chunk: Chunk) -> Flight:
        """Let the images of a chunk go, all at once; return what to wait for."""
        # All are announced before the first is decoded: the batcher waits for what can still come.
        self._batcher.expect(len(journeys))
        flight = Flight(journeys, self._room.give_back)
        decoders = self._urgent_decoder if chunk.urgent else self._decoders
        for journey in journeys:
            decoders.submit(self._prepare, flight, journey, chunk)
        return flight

    def try_out(self, journeys: Sequence[Journey], chunk: Chunk, trial: Trial) -> None:
        """Let the images go one by one, and give back the room of those that did not."""
        waiting = len(journeys)
        try:
            for index, journey in enumerate(journeys):
                try:
                    with trial(index):
                        # Once it has left, it gives its room back when it lands.
                        waiting -= 1
                        self.depart([journey], chunk).wait()
                        # What says nothing about the image must not end its trial well.
                        journey.verdict()
                except ImageError as e:
                    journey.outcome = e
        finally:
            self._room.give_back(waiting)

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
            data, journey.stamp = self._read_ref(journey.ref)
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
                self._preprocessing,
                max_pixels=self._max_pixels,
                fast=self._fast,
                max_side=self._max_side,
                budget=self._budget,
                look=look,
            )
