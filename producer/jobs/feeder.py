"""Images -> chunks -> outbox, in a thread of its own, held back by the window."""

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

from producer.backend.retry import retry
from producer.jobs.publisher import MAX_BYTES, OutgoingChunk, Publisher, Stores
from producer.jobs.window import Sent, Window, WindowClosedError
from producer.sources import stores as urls
from producer.sources.scan import Image, path_of
from worker.contract.messages import MAX_PATH_CHARS, Chunk, Failure, ImageRef, Part, Stamp
from worker.contract.stores.blobs import blob_key

# The blobs of a message are held in memory, and go to Redis at once.
CHUNK_BYTES: Final = MAX_BYTES
# A chunk costs a worker up to 4 ms of CPU whatever it holds: a long job has larger ones; but small
# ones at both ends, so that all workers begin and end at nearly the same time.
SMALLEST_CHUNK: Final = 8
LARGEST_CHUNK: Final = 64
CHUNK_SHARE: Final = 64
STOP_TIMEOUT_S: Final = 1.0
_KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class JobOptions(msgspec.Struct, frozen=True, kw_only=True):
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
    embeddings: bool = False
    thumbnail_px: int = 0


class Feeder:
    """Sends all images of a job while another thread collects what comes back."""

    def __init__(
        self,
        images: Iterable[Image],
        options: JobOptions,
        stores: Stores,
        window: Window,
        total: Callable[[], int | None] = lambda: None,
        *,
        retry_timeout_s: float = 0.0,
    ) -> None:
        """Take what is to be sent; `total` tells how many images there are, once that is known.

        So long a Redis is waited for that is away, in silence: the collector asks it too.
        """
        self._retry_timeout_s = retry_timeout_s
        self._found = images
        self._total = total
        self._options = options
        self._stores = stores
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
            submitted = partial(self._stores.jobs.set_state, self._options.job, "submitted")
            retry(submitted, self._retry_timeout_s)
        except WindowClosedError:
            pass
        except BaseException as e:  # noqa: BLE001 - the collecting thread raises it where it is seen
            self.error = e

    def _feed(self) -> None:
        publisher = Publisher(self._stores, self._count, retry_timeout_s=self._retry_timeout_s)
        publisher.start()
        try:
            for seq, (images, blobs) in enumerate(self._chunks()):
                outgoing = OutgoingChunk(self._chunk(seq, images), blobs)
                self._window.add(seq, Sent(images, outgoing.size_bytes))
                publisher.put(outgoing)
        finally:
            # What is counted as under way goes, whatever ended the loop.
            publisher.close()

    def _count(self, images: int) -> None:
        self.images += images

    def _chunks(self) -> Iterator[tuple[tuple[ImageRef, ...], dict[str, bytes]]]:
        """Yield each chunk's references and, in blob mode, the bytes by key."""
        seq, size_bytes, begun = 0, 0, 0
        images: list[ImageRef] = []
        blobs: dict[str, bytes] = {}
        for image in self._found:
            ref = reference(image)
            if self._options.as_blobs and ref.error is None:
                ref, data = self._with_bytes(ref, blob_key(self._options.job, seq, len(images)))
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
        if self._options.chunk_images:
            return self._options.chunk_images
        # Few blobs fit in Redis at a time: they are to go round all workers.
        return SMALLEST_CHUNK if self._options.as_blobs else size_of_chunk(begun, self._total())

    def _with_bytes(self, ref: ImageRef, key: str) -> tuple[ImageRef, bytes]:
        found = read_image(ref, self._options.max_bytes)
        if isinstance(found, Failure):
            return ImageRef(ref.path, error=found), b""
        data, stamp = found
        return ImageRef(ref.path, blob=key, stamp=stamp), data

    def _chunk(self, seq: int, images: tuple[ImageRef, ...]) -> Chunk:
        options = self._options
        return Chunk(
            job=options.job,
            seq=seq,
            images=images,
            labels=options.labels,
            top_k=options.top_k,
            threshold=options.threshold,
            embeddings=options.embeddings,
            thumbnail_px=options.thumbnail_px,
            sent_at_s=time.time(),
        )


def reference(image: Image) -> ImageRef:
    """Return how an image travels; one whose path nothing can have travels as a failure."""
    path = path_of(image)
    if len(path) <= MAX_PATH_CHARS:
        return ImageRef(image) if isinstance(image, str) else image
    words = f"a path of {len(path):,} characters is longer than any file's"
    return ImageRef(path[:MAX_PATH_CHARS], error=_failure("not_found", words))


def size_of_chunk(begun: int, total: int | None) -> int:
    """Return how many images the next chunk holds after so many: a power of two, 8 to 64.

    It is a 64th of what went before or, if that is less, of what is known to be left.
    """
    share = (begun if total is None else min(begun, max(0, total - begun))) // CHUNK_SHARE
    return max(SMALLEST_CHUNK, min(LARGEST_CHUNK, 1 << share.bit_length() >> 1))


def read_image(ref: ImageRef, max_bytes: int) -> tuple[bytes, Stamp | None] | Failure:
    """Return a file's bytes and stamp, or why there are none, in the codes and words of workers."""
    if urls.is_url(ref.place):
        return _failure("unreadable", "workers fetch what lies at a URL: leave --blobs away")
    try:
        # Looked at before it is opened: to open a FIFO or a device can be an act.
        if refused := _refused(os.stat(ref.place), max_bytes, ref.part):
            return refused
        # Non-blocking, should it have become a FIFO meanwhile.
        descriptor = os.open(ref.place, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if ref.part:
                return os.pread(descriptor, ref.part.size_bytes, ref.part.offset), None
            # What a growing file gains meanwhile is left: the limit holds whatever happens to it.
            stamp = Stamp(status.st_size, status.st_mtime)
            return _refused(status, max_bytes) or (file.read(status.st_size), stamp)
    except OSError as e:
        if e.errno in {errno.ENOENT, errno.ENOTDIR}:
            return _failure("not_found", "there is no such file on the producer's machine")
        reason = (e.strerror or type(e).__name__).lower()
        return _failure("unreadable", f"the file cannot be read: {reason}")


def _refused(status: os.stat_result, max_bytes: int, part: Part | None = None) -> Failure | None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        return _failure("not_a_file", f"this is {kind}, not a regular file")
    size_bytes = part.size_bytes if part else status.st_size
    if not size_bytes:
        return _failure("empty_file", "the file is empty")
    if size_bytes > max_bytes:
        words = f"{size_bytes:,} bytes are more than the limit of {max_bytes:,}"
        return _failure("too_large", f"{words} (WANWU_MAX_FILE_BYTES)")
    return None


def _failure(code: str, message: str) -> Failure:
    return Failure(code, "read", message)
