"""Images -> chunks -> publisher, in a thread of its own, held back by the window."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final

from producer.jobs.chunks import (
    SMALLEST_CHUNK,
    Loaded,
    grouped,
    make_chunk,
    reference,
    size_of_chunk,
    with_bytes,
)
from producer.jobs.options import JobOptions
from producer.jobs.publisher import MAX_BYTES, Publisher, Stores
from producer.jobs.window import Sent, Window, WindowClosedError
from producer.sources.scan import Image
from worker.contract.redis.retry import RetryPolicy

STOP_TIMEOUT_S: Final = 1.0


class Feeder:
    """Sends all images of a job while another thread collects what comes back."""

    def __init__(
        self,
        job: str,
        images: Iterable[Image],
        options: JobOptions,
        stores: Stores,
        window: Window,
        *,
        total: Callable[[], int | None] = lambda: None,
        max_file_bytes: int = 0,
        retry_timeout_s: float = 0.0,
    ) -> None:
        """Take what is to be sent; `total` says how many images there are, once that is known.

        A Redis that is away is asked again for `retry_timeout_s`, silently: the collector
        asks it too. Of files whose bytes are sent, none has more than `max_file_bytes`.
        """
        self._retry_timeout_s = retry_timeout_s
        self._job = job
        self._found = images
        self._total = total
        self._options = options
        self._max_file_bytes = max_file_bytes
        self._stores = stores
        self._window = window
        self._publisher = Publisher(stores, self._count, retry_timeout_s=retry_timeout_s)
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)
        self.images = 0
        self.sent_all = False
        self.error: BaseException | None = None

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Send no more; what is under way stays so."""
        self._window.close()
        self._publisher.stop()
        # It sends the chunks at hand, so that none is counted but not sent; but it may wait for a
        # line on standard input that never comes.
        self._thread.join(STOP_TIMEOUT_S)

    @property
    def is_held_up(self) -> bool:
        """Whether nothing is sent because the memory of Redis is short."""
        return self._publisher.is_held_up

    def check(self) -> bool:
        """Return whether more may come.

        Raises:
            BaseException: what went wrong while sending.
        """
        feeding = self._thread.is_alive()
        if self.error is not None:
            raise self.error
        return feeding

    def _run(self) -> None:
        try:
            self._feed()
            self.sent_all = True
            submitted = partial(self._stores.jobs.set_state, self._job, "submitted")
            RetryPolicy(self._retry_timeout_s).call(submitted)
        except WindowClosedError:
            pass
        except BaseException as e:  # noqa: BLE001 - the collecting thread raises it where it is seen
            self.error = e

    def _feed(self) -> None:
        publisher = self._publisher
        publisher.start()
        keys = self._stores.blobs.keys
        try:
            for seq, images in enumerate(grouped(self._loaded(), self._most_images, MAX_BYTES)):
                outgoing = make_chunk(self._job, seq, images, self._options, keys)
                self._window.add(seq, Sent(outgoing.chunk.images, outgoing.size_bytes))
                publisher.put(outgoing)
        finally:
            # What is counted as under way goes, whatever ended the loop.
            publisher.close()

    def _count(self, images: int) -> None:
        self.images += images

    def _loaded(self) -> Iterator[Loaded]:
        if self._options.as_blobs:
            return (with_bytes(image, self._max_file_bytes) for image in self._found)
        return (Loaded(reference(image)) for image in self._found)

    def _most_images(self, before: int) -> int:
        if self._options.chunk_size:
            return self._options.chunk_size
        # Few blobs fit in Redis at a time: they are to go round all workers.
        return SMALLEST_CHUNK if self._options.as_blobs else size_of_chunk(before, self._total())
