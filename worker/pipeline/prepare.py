"""Images of a chunk -> decoded, into the batcher; or done early: in the cache, or failed.

::

    task thread       submit --+                       +--> ChunkLatch, on which the task waits
    decode threads             +-- read, decode, put --+
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from worker.budget import WeightedSemaphore
from worker.errors import ImageError, WorkerGoneError
from worker.images.decode import decode
from worker.images.thumbnail import thumbnail
from worker.pipeline.batch_policy import Inferred, Pixels
from worker.pipeline.in_flight import ChunkLatch, ImageTask

if TYPE_CHECKING:
    from worker.artifact.manifest import Artifact
    from worker.contract.messages import Chunk, ImageRef
    from worker.contract.settings import Settings
    from worker.images.read import Original
    from worker.pipeline.batcher import Batcher
    from worker.pipeline.capacity import Capacity
    from worker.pipeline.embedding_cache import EmbeddingCache

# A chunk's image index -> the context in which that image is processed, alone.
Attempt = Callable[[int], AbstractContextManager[object]]


class DecodeStage:
    """The threads that read and decode. Many task threads may submit chunks at once."""

    def __init__(
        self,
        settings: Settings,
        artifact: Artifact,
        read: Callable[[ImageRef], Original],
        batcher: Batcher,
        capacity: Capacity,
        embedding_cache: EmbeddingCache | None,
    ) -> None:
        """Take where images come from and go to, and the cache of embeddings if there is one."""
        self._preprocessing = artifact.manifest.preprocessing
        self._fast = artifact.manifest.decodes_fast(settings.decode)
        self._max_pixels = settings.max_pixels
        self._max_side = settings.jpeg_max_side
        self._read_ref = read
        self._batcher = batcher
        self._capacity = capacity
        self._embedding_cache = embedding_cache
        # As much as the largest image alone, however many threads decode.
        self._semaphore = WeightedSemaphore(settings.max_pixels)
        self._decoders = ThreadPoolExecutor(settings.decoders, thread_name_prefix="decode")
        # An urgent image does not wait for what the other threads have to do.
        self._urgent_decoder = ThreadPoolExecutor(1, thread_name_prefix="decode-urgent")

    def stop(self) -> None:
        """Decode what was submitted, and end the threads; harmless when done twice."""
        self._decoders.shutdown(wait=True)
        self._urgent_decoder.shutdown(wait=True)

    def submit(self, image_tasks: Sequence[ImageTask], chunk: Chunk) -> ChunkLatch:
        """Begin with the images of a chunk, all at once; return what to wait for."""
        # All are announced before the first is decoded: the batcher waits for what can still come.
        self._batcher.expect(len(image_tasks))
        latch = ChunkLatch(image_tasks, self._capacity.give_back)
        decoders = self._urgent_decoder if chunk.urgent else self._decoders
        for image_task in image_tasks:
            decoders.submit(self._prepare, latch, image_task, chunk)
        return latch

    def process_isolated(
        self, image_tasks: Sequence[ImageTask], chunk: Chunk, attempt: Attempt
    ) -> None:
        """Process the images one by one; give back the capacity of those that were not begun."""
        waiting = len(image_tasks)
        try:
            for index, image_task in enumerate(image_tasks):
                try:
                    with attempt(index):
                        # Once it is submitted, it gives its capacity back when it is done.
                        waiting -= 1
                        self.submit([image_task], chunk).wait()
                        # An error that says nothing about the image must not end its attempt well.
                        image_task.result()
                except ImageError as e:
                    image_task.outcome = e
        finally:
            self._capacity.give_back(waiting)

    def _prepare(self, latch: ChunkLatch, image_task: ImageTask, chunk: Chunk) -> None:
        """Read and decode, on a decode thread; whatever happens, the image gets an outcome."""
        try:
            data = self._read(image_task)
            if (cached := self._cache_hit(image_task, data, chunk)) is not None:
                self._batcher.forget()
                latch.complete(image_task, cached)
                return
            pixels_CHW = self._decode(image_task, data, chunk.thumbnail_px)
        except BaseException as e:  # noqa: BLE001 - `to_image_error` tells them apart
            self._batcher.forget()
            latch.complete(image_task, e)
            return
        try:
            future = self._batcher.put(pixels_CHW, urgent=chunk.urgent)
            latch.complete_with(image_task, future)
        except WorkerGoneError as e:
            latch.complete(image_task, e)

    def _read(self, image_task: ImageTask) -> bytes:
        with image_task.watch.time("read_ms"):
            data, image_task.stamp = self._read_ref(image_task.ref)
        return data

    def _cache_hit(self, image_task: ImageTask, data: bytes, chunk: Chunk) -> Inferred | None:
        """Return the cached embedding of the same bytes, if nothing else is wanted."""
        if self._embedding_cache is None:
            return None
        key = self._embedding_cache.key_of(data)
        embedding_D = None if chunk.thumbnail_px else self._embedding_cache.get(key)
        if embedding_D is None:
            image_task.key = key
            return None
        return Inferred(embedding_D, 0.0, 0.0, 0)

    def _decode(self, image_task: ImageTask, data: bytes, thumbnail_px: int) -> Pixels:
        def look(whole: Pixels) -> None:
            if thumbnail_px:
                image_task.thumbnail = thumbnail(whole, thumbnail_px)

        with image_task.watch.time("decode_ms"):
            return decode(
                data,
                self._preprocessing,
                max_pixels=self._max_pixels,
                fast=self._fast,
                jpeg_max_side=self._max_side,
                semaphore=self._semaphore,
                look=look,
            )
