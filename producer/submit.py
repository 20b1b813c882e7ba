"""Image paths -> chunks -> queue, in a thread of its own, held back by the window."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import msgspec
from celery import Celery

from producer.window import Sent, Window, WindowClosedError
from worker.contract.blobs import BlobStore, blob_key
from worker.contract.jobs import JobStore
from worker.contract.messages import QUEUE, TASK, Chunk, Failure, ImageRef


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """How each image of a job is to be tagged and sent. `labels` is the hash of a label pack."""

    job: str
    labels: str | None
    top_k: int
    threshold: float
    chunk_images: int
    as_blobs: bool
    max_bytes: int


class Post(NamedTuple):
    """Where chunks go, and where they are counted."""

    app: Celery
    jobs: JobStore
    blobs: BlobStore


class Feeder:
    """Sends all images of a job while another thread collects what comes back."""

    def __init__(self, paths: Iterable[str], order: Order, post: Post, window: Window) -> None:
        self._paths = paths
        self._order = order
        self._post = post
        self._window = window
        self._thread = threading.Thread(target=self._live, name="feeder", daemon=True)
        self.images = 0
        self.error: BaseException | None = None

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Send no more; what is under way stays so."""
        self._window.close()

    def check(self) -> bool:
        """Return whether more may come.

        Raises:
            BaseException: what went wrong while sending.
        """
        feeding = self._thread.is_alive()
        if self.error is not None:
            raise self.error
        return feeding

    def _live(self) -> None:
        try:
            self._feed()
            self._post.jobs.set_state(self._order.job, "submitted")
        except WindowClosedError:
            pass
        except BaseException as e:  # noqa: BLE001 - the collecting thread raises it where it is seen
            self.error = e

    def _feed(self) -> None:
        with self._post.app.producer_or_acquire() as producer:
            for seq, paths in enumerate(_batched(self._paths, self._order.chunk_images)):
                images, blobs = self._pack(seq, paths)
                self._window.add(seq, Sent(images, sum(map(len, blobs.values()))))
                self._send(producer, seq, images, blobs)
                self.images += len(images)

    def _pack(
        self, seq: int, paths: Sequence[str]
    ) -> tuple[tuple[ImageRef, ...], dict[str, bytes]]:
        """Return the chunk's references and, in blob mode, the bytes by key."""
        if not self._order.as_blobs:
            return tuple(ImageRef(path) for path in paths), {}
        images, blobs = [], {}
        for index, path in enumerate(paths):
            data = read_image(path, self._order.max_bytes)
            if isinstance(data, Failure):
                images.append(ImageRef(path, error=data))
                continue
            key = blob_key(self._order.job, seq, index)
            images.append(ImageRef(path, blob=key))
            blobs[key] = data
        return tuple(images), blobs

    def _send(
        self, producer: Any, seq: int, images: tuple[ImageRef, ...], blobs: dict[str, bytes]
    ) -> None:
        order = self._order
        chunk = Chunk(
            job=order.job,
            seq=seq,
            images=images,
            labels=order.labels,
            top_k=order.top_k,
            threshold=order.threshold,
            sent_at_s=time.time(),
        )
        if blobs:
            self._post.blobs.put(blobs)
        # Counted first: a worker that is quicker than this line must not count beyond the total.
        self._post.jobs.count_sent(order.job, len(images))
        self._post.app.send_task(
            TASK, args=[chunk.to_wire()], task_id=chunk.task_id, queue=QUEUE, producer=producer
        )


def read_image(path: str, max_bytes: int) -> bytes | Failure:
    """Return a file's bytes, or why there are none, in the codes that workers use."""
    try:
        # Non-blocking, so that a FIFO is opened at once and refused, not waited for.
        descriptor = os.open(os.fsencode(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return _failure("not_a_file", "this is not a regular file")
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        return _failure("not_found", "there is no such file on the producer's machine")
    except OSError as e:
        return _failure("unreadable", f"the file cannot be read: {e.strerror or e}".lower())
    if not data:
        return _failure("empty_file", "the file is empty")
    if len(data) > max_bytes:
        return _failure("too_large", f"the file has more than {max_bytes:,} bytes, the limit")
    return data


def _failure(code: str, message: str) -> Failure:
    return Failure(code, "read", message)


def _batched(paths: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(paths)
    while batch := list(islice(iterator, size)):
        yield batch
