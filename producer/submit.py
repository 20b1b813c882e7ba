"""Image paths -> chunks -> outbox, in a thread of its own, held back by the window."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final

import msgspec

from producer.insist import insist
from producer.outbox import MAX_BYTES, Outbox, Parcel, Post
from producer.window import Sent, Window, WindowClosedError
from worker.contract.blobs import blob_key
from worker.contract.messages import MAX_PATH_CHARS, Chunk, Failure, ImageRef

# The blobs of a message are held in memory, and go to Redis at once.
CHUNK_BYTES: Final = MAX_BYTES
# A chunk costs a worker 4 ms whatever it holds, so a long job has larger ones; but small ones at
# both ends, so that all workers begin and end at nearly the same time.
SMALLEST_CHUNK: Final = 8
LARGEST_CHUNK: Final = 64
CHUNK_SHARE: Final = 128
STOP_TIMEOUT_S: Final = 1.0
_KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """How each image of a job is to be tagged and sent.

    `labels` is the hash of a label pack. Without `chunk_images`, chunks grow with the job.
    """

    job: str
    labels: str | None
    top_k: int
    threshold: float
    chunk_images: int | None
    as_blobs: bool
    max_bytes: int


class Feeder:
    """Sends all images of a job while another thread collects what comes back."""

    def __init__(
        self,
        paths: Iterable[str],
        order: Order,
        post: Post,
        window: Window,
        total: Callable[[], int | None] = lambda: None,
        *,
        patience_s: float = 0.0,
    ) -> None:
        """Take what is to be sent; `total` tells how many paths there are, once that is known.

        So long a Redis is waited for that is away, in silence: the collector asks it too.
        """
        self._patience_s = patience_s
        self._paths = paths
        self._total = total
        self._order = order
        self._post = post
        self._window = window
        self._thread = threading.Thread(target=self._live, name="feeder", daemon=True)
        self.images = 0
        self.sent_all = False
        self.error: BaseException | None = None

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Send no more; what is under way stays so."""
        self._window.close()
        # It sends the chunks at hand, so that none is counted but not sent; but it may wait for a
        # line on standard input that never comes.
        self._thread.join(STOP_TIMEOUT_S)

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
            self.sent_all = True
            submitted = partial(self._post.jobs.set_state, self._order.job, "submitted")
            insist(submitted, self._patience_s)
        except WindowClosedError:
            pass
        except BaseException as e:  # noqa: BLE001 - the collecting thread raises it where it is seen
            self.error = e

    def _feed(self) -> None:
        outbox = Outbox(self._post, self._count, patience_s=self._patience_s)
        outbox.start()
        try:
            for seq, (images, blobs) in enumerate(self._chunks()):
                parcel = Parcel(self._chunk(seq, images), blobs)
                self._window.add(seq, Sent(images, parcel.size_bytes))
                outbox.put(parcel)
        finally:
            # What is counted as under way goes, whatever ended the loop.
            outbox.close()

    def _count(self, images: int) -> None:
        self.images += images

    def _chunks(self) -> Iterator[tuple[tuple[ImageRef, ...], dict[str, bytes]]]:
        """Yield each chunk's references and, in blob mode, the bytes by key."""
        seq, size_bytes, begun = 0, 0, 0
        images: list[ImageRef] = []
        blobs: dict[str, bytes] = {}
        for path in self._paths:
            ref = reference(path)
            if self._order.as_blobs and ref.error is None:
                ref, data = self._with_bytes(path, blob_key(self._order.job, seq, len(images)))
                if ref.blob:
                    blobs[ref.blob] = data
                    size_bytes += len(data)
            images.append(ref)
            if len(images) >= self._chunk_images(begun) or size_bytes >= CHUNK_BYTES:
                yield tuple(images), blobs
                begun += len(images)
                seq, size_bytes, images, blobs = seq + 1, 0, [], {}
        if images:
            yield tuple(images), blobs

    def _chunk_images(self, begun: int) -> int:
        if self._order.chunk_images:
            return self._order.chunk_images
        # Few blobs fit in Redis at a time: they are to go round all workers.
        return SMALLEST_CHUNK if self._order.as_blobs else size_of_chunk(begun, self._total())

    def _with_bytes(self, path: str, key: str) -> tuple[ImageRef, bytes]:
        data = read_image(path, self._order.max_bytes)
        if isinstance(data, Failure):
            return ImageRef(path, error=data), b""
        return ImageRef(path, blob=key), data

    def _chunk(self, seq: int, images: tuple[ImageRef, ...]) -> Chunk:
        order = self._order
        return Chunk(
            job=order.job,
            seq=seq,
            images=images,
            labels=order.labels,
            top_k=order.top_k,
            threshold=order.threshold,
            sent_at_s=time.time(),
        )


def reference(path: str) -> ImageRef:
    """Return how an image travels; one whose path nothing can have travels as a failure."""
    if len(path) <= MAX_PATH_CHARS:
        return ImageRef(path)
    words = f"a path of {len(path):,} characters is longer than any file's"
    return ImageRef(path[:MAX_PATH_CHARS], error=_failure("not_found", words))


def size_of_chunk(begun: int, total: int | None) -> int:
    """Return how many images the next chunk holds after so many: a power of two, 8 to 64.

    It is a 128th of what went before or, if that is less, of what is known to be left.
    """
    share = (begun if total is None else min(begun, max(0, total - begun))) // CHUNK_SHARE
    return max(SMALLEST_CHUNK, min(LARGEST_CHUNK, 1 << share.bit_length() >> 1))


def read_image(path: str, max_bytes: int) -> bytes | Failure:
    """Return a file's bytes, or why there are none, in the codes and words of workers."""
    try:
        # Looked at before it is opened: to open a FIFO or a device can be an act.
        if refused := _refused(os.stat(path), max_bytes):
            return refused
        # Non-blocking, should it have become a FIFO meanwhile.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            # What a growing file gains meanwhile is left: the limit holds whatever happens to it.
            return _refused(status, max_bytes) or file.read(status.st_size)
    except OSError as e:
        if e.errno in {errno.ENOENT, errno.ENOTDIR}:
            return _failure("not_found", "there is no such file on the producer's machine")
        reason = (e.strerror or type(e).__name__).lower()
        return _failure("unreadable", f"the file cannot be read: {reason}")


def _refused(status: os.stat_result, max_bytes: int) -> Failure | None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        return _failure("not_a_file", f"this is {kind}, not a regular file")
    if not status.st_size:
        return _failure("empty_file", "the file is empty")
    if status.st_size > max_bytes:
        words = f"{status.st_size:,} bytes are more than the limit of {max_bytes:,}"
        return _failure("too_large", f"{words} (WANWU_MAX_BYTES)")
    return None


def _failure(code: str, message: str) -> Failure:
    return Failure(code, "read", message)
