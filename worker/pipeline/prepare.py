"""Images of a chunk -> decoded, into the batcher; or done early: in the cache, or failed.

::

    task thread     submit --+------------- files ---------> Decoder --put--> batcher
    read threads             +----------- blobs: bytes ----> Decoder --put--> batcher
    fetch pool               +-- URLs --> read threads ----> Decoder --put--> batcher
                                                                |
                                 ChunkLatch <------ failed -----+       on which the task waits
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from worker.contract.urls import is_url
from worker.errors import ImageError, WorkerGoneError
from worker.images.decoder import Decoder, DecodeRequest, Done
from worker.images.read_file import encoded
from worker.pipeline.batch_policy import Inferred
from worker.pipeline.in_flight import ChunkLatch, ImageTask

if TYPE_CHECKING:
    from worker.contract.messages import Chunk, ImageRef
    from worker.images.fetch.pool import Fetched, FetchPool
    from worker.images.read_file import Original
    from worker.pipeline.batcher import Batcher
    from worker.pipeline.capacity import Capacity
    from worker.pipeline.embedding_cache import EmbeddingCache

# A chunk's image index -> the context in which that image is processed, alone.
Attempt = Callable[[int], AbstractContextManager[object]]


class Sources(NamedTuple):
    """Where bytes come from: so many `readers` get what lies in Redis, by `read`; URLs the pool."""

    read: Callable[[ImageRef], Original]
    readers: int
    fetch_pool: FetchPool


class DecodeStage:
    """Reads and decodes. Many task threads may submit chunks at once."""

    def __init__(
        self,
        decoder: Decoder,
        sources: Sources,
        batcher: Batcher,
        capacity: Capacity,
        embedding_cache: EmbeddingCache | None,
    ) -> None:
        """Take where images come from and go to, and the cache of embeddings if there is one."""
        self._decoder = decoder
        self._sources = sources
        self._batcher = batcher
        self._capacity = capacity
        self._embedding_cache = embedding_cache
        self._readers = ThreadPoolExecutor(sources.readers, thread_name_prefix="read")
        # An urgent image does not wait for what the other threads have to do.
        self._urgent_reader = ThreadPoolExecutor(1, thread_name_prefix="read-urgent")

    def start(self) -> None:
        """Wait until images can be decoded.

        Raises:
            DecoderStartError: they cannot be.
        """
        self._sources.fetch_pool.start()
        self._decoder.start()

    def stop(self) -> None:
        """Decode what was submitted, and end the threads; harmless when done twice."""
        # In the direction of the flow.
        self._sources.fetch_pool.stop()
        self._readers.shutdown(wait=True)
        self._urgent_reader.shutdown(wait=True)
        self._decoder.stop()

    def submit(self, image_tasks: Sequence[ImageTask], chunk: Chunk) -> ChunkLatch:
        """Begin with the images of a chunk, all at once; return what to wait for."""
        # All are announced before the first is decoded: the batcher waits for what can still come.
        self._batcher.expect(len(image_tasks))
        latch = ChunkLatch(image_tasks, self._capacity.give_back)
        files = []
        for image_task in image_tasks:
            ref = image_task.ref
            if ref.error is None and ref.blob is None and is_url(ref.place):
                on_done = partial(self._fetched, latch, image_task, chunk)
                self._sources.fetch_pool.submit(ref, on_done, urgent=chunk.urgent)
            elif self._needs_bytes(ref):
                self._readers_of(chunk).submit(self._read, latch, image_task, chunk)
            elif (request := self._file(latch, image_task, chunk)) is not None:
                files.append(request)
        if files:
            self._decoder.submit(files, urgent=chunk.urgent)
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

    def _needs_bytes(self, ref: ImageRef) -> bool:
        """Whether an image is read here: all but files, whose decoder reads them itself."""
        is_file = ref.error is None and ref.blob is None
        return not is_file or self._embedding_cache is not None

    def _readers_of(self, chunk: Chunk) -> ThreadPoolExecutor:
        return self._urgent_reader if chunk.urgent else self._readers

    def _file(self, latch: ChunkLatch, image_task: ImageTask, chunk: Chunk) -> DecodeRequest | None:
        ref = image_task.ref
        try:
            path = encoded(ref.place)
        except ImageError as e:
            self._end(latch, image_task, e)
            return None
        put = partial(self._put, latch, image_task, chunk)
        return DecodeRequest(put, path=path, part=ref.part, thumbnail_px=chunk.thumbnail_px)

    def _read(self, latch: ChunkLatch, image_task: ImageTask, chunk: Chunk) -> None:
        """Get the bytes, on a read thread; whatever happens, the image gets an outcome."""
        try:
            with image_task.watch.time("read_ms"):
                data, image_task.stamp = self._sources.read(image_task.ref)
        except BaseException as e:  # noqa: BLE001 - `to_image_error` tells them apart
            self._end(latch, image_task, e)
        else:
            self._decode(latch, image_task, chunk, data)

    def _fetched(
        self, latch: ChunkLatch, image_task: ImageTask, chunk: Chunk, fetched: Fetched
    ) -> None:
        """Go on with what was fetched, on a read thread: the pool's must not wait for a cache."""
        image_task.watch.note("read_ms", fetched.read_ms)
        image_task.stamp = fetched.stamp
        if fetched.error is not None:
            self._end(latch, image_task, fetched.error)
            return
        image_task.release = fetched.release
        self._readers_of(chunk).submit(self._decode, latch, image_task, chunk, fetched.data)

    def _decode(self, latch: ChunkLatch, image_task: ImageTask, chunk: Chunk, data: bytes) -> None:
        """Let bytes be decoded, unless their embedding is cached."""
        try:
            if (cached := self._cache_hit(image_task, data, chunk)) is not None:
                self._batcher.forget()
                latch.complete(image_task, cached)
                return
            put = partial(self._put, latch, image_task, chunk)
            request = DecodeRequest(put, data=data, thumbnail_px=chunk.thumbnail_px)
            self._decoder.submit([request], urgent=chunk.urgent)
        except BaseException as e:  # noqa: BLE001 - `to_image_error` tells them apart
            self._end(latch, image_task, e)

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

    def _put(self, latch: ChunkLatch, image_task: ImageTask, chunk: Chunk, done: Done) -> None:
        """Put what is decoded into the batcher; an image that failed is done."""
        self._note(image_task, done)
        if done.pixels_CHW is None:
            self._end(latch, image_task, done.error or WorkerGoneError())
            return
        try:
            complete = partial(latch.complete, image_task)
            self._batcher.put(done.pixels_CHW, complete, urgent=chunk.urgent)
        except WorkerGoneError as e:
            latch.complete(image_task, e)

    def _note(self, image_task: ImageTask, done: Done) -> None:
        image_task.thumbnail = done.thumbnail
        # Who reads here has noted its own.
        if done.request.path:
            image_task.stamp = done.stamp
            image_task.watch.note("read_ms", done.read_ms)
        image_task.watch.note("decode_ms", done.decode_ms)

    def _end(self, latch: ChunkLatch, image_task: ImageTask, error: BaseException) -> None:
        self._batcher.forget()
        latch.complete(image_task, error)
