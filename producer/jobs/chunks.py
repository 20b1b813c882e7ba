"""Images -> chunks: how many travel together, and the one place where a message is made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from producer.jobs.options import JobOptions
from producer.jobs.read_image import read_image
from producer.sources.scan import Image, path_of
from worker.contract import failures
from worker.contract.keys import Keys
from worker.contract.messages import MAX_PATH_CHARS, Chunk, Failure, ImageRef

# A chunk costs a worker up to 4 ms of CPU whatever it holds: a long job has larger ones; but small
# ones at both ends, so that all workers begin and end at nearly the same time.
SMALLEST_CHUNK: Final = 8
LARGEST_CHUNK: Final = 64
CHUNK_SHARE: Final = 64
# Half of what workers read: `worker.contract.queue.envelope`.
MAX_TEXT_BYTES: Final = 32 * 2**20
# A character of a name becomes twelve of JSON at most, and those sixteen of base64.
_BYTES_PER_CHAR: Final = 16


class Loaded(NamedTuple):
    """An image with its bytes, if they are to be sent."""

    ref: ImageRef
    data: bytes | None = None


class OutgoingChunk(NamedTuple):
    """A chunk with the bytes of its blobs, by key."""

    chunk: Chunk
    blobs: dict[str, bytes]

    @property
    def size_bytes(self) -> int:
        """The size of its blobs."""
        return sum(map(len, self.blobs.values()))


def make_chunk(
    job: str,
    seq: int,
    images: Sequence[Loaded],
    options: JobOptions,
    keys: Keys,
    *,
    urgent: bool = False,
) -> OutgoingChunk:
    """Return chunk `seq` of a job; images that have bytes get blobs of the chunk's own."""
    blobs: dict[str, bytes] = {}
    refs: list[ImageRef] = []
    for index, (ref, data) in enumerate(images):
        if data is None:
            refs.append(ref)
            continue
        key = keys.blob(job, seq, index)
        blobs[key] = data
        refs.append(msgspec.structs.replace(ref, blob=key))
    chunk = Chunk(
        job=job,
        seq=seq,
        images=tuple(refs),
        labels=options.labels,
        top_k=options.top_k,
        threshold=options.threshold,
        embeddings=options.embeddings,
        thumbnail_px=options.thumbnail_px,
        urgent=urgent,
        sent_at_s=time.time(),
    )
    return OutgoingChunk(chunk, blobs)


def grouped(
    images: Iterable[Loaded], most_images: Callable[[int], int], most_bytes: int
) -> Iterator[list[Loaded]]:
    """Yield the images in groups that are full by number or by bytes; no image is split.

    `most_images` says how many the next group may hold, after so many in those before. A
    group is full, too, when its message would become larger than workers read.
    """
    before, size_bytes, text_bytes = 0, 0, 0
    group: list[Loaded] = []
    most = most_images(before)
    for image in images:
        group.append(image)
        size_bytes += len(image.data or b"")
        text_bytes += _text_bytes(image.ref)
        if len(group) >= most or size_bytes >= most_bytes or text_bytes >= MAX_TEXT_BYTES:
            yield group
            before += len(group)
            group, size_bytes, text_bytes, most = [], 0, 0, most_images(before)
    if group:
        yield group


def _text_bytes(ref: ImageRef) -> int:
    """Return how many bytes of a message an image's texts take at most."""
    error = len(ref.error.message) if ref.error else 0
    return _BYTES_PER_CHAR * (len(ref.path) + error)


def size_of_chunk(before: int, total: int | None) -> int:
    """Return how many images the next chunk holds after so many: a power of two, 8 to 64.

    It is a 64th of what went before or, if that is less, of what is known to be left.
    """
    share = (before if total is None else min(before, max(0, total - before))) // CHUNK_SHARE
    return max(SMALLEST_CHUNK, min(LARGEST_CHUNK, 1 << share.bit_length() >> 1))


def reference(image: Image) -> ImageRef:
    """Return how an image travels; one whose path nothing can have travels as a failure."""
    path = path_of(image)
    if len(path) <= MAX_PATH_CHARS:
        return ImageRef(image) if isinstance(image, str) else image
    return ImageRef(path[:MAX_PATH_CHARS], error=failures.path_too_long(len(path)))


def with_bytes(image: Image, max_bytes: int) -> Loaded:
    """Return an image with its bytes; one that cannot be read travels as a failure."""
    ref = reference(image)
    if ref.error is not None:
        return Loaded(ref)
    found = read_image(ref, max_bytes)
    if isinstance(found, Failure):
        return Loaded(ImageRef(ref.path, error=found))
    data, stamp = found
    return Loaded(ImageRef(ref.path, stamp=stamp), data)
