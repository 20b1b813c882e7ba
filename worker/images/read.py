"""Image reference -> bytes and stamp, from a file, a part of one, or Redis. URLs are fetched.

Never reads past the limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from worker.errors import BlobMissingError, EmptyFileError, ReportedError, TooLargeError
from worker.images.read_file import Original, encoded, read_file

if TYPE_CHECKING:
    from worker.contract.messages import ImageRef
    from worker.contract.settings import Settings


class Blobs(Protocol):
    """Where bytes lie that came beside the queue."""

    def get(self, key: str) -> bytes | None:
        """Return the bytes, or None if they are gone."""


def read(ref: ImageRef, blobs: Blobs, settings: Settings) -> Original:
    """Return the image's bytes, 1 to `settings.max_file_bytes` of them.

    Raises:
        ImageError: of stage `read`, or the failure that the producer reported.
        redis.RedisError: Redis is away; says nothing about the image.
    """
    if ref.error is not None:
        raise ReportedError(ref.error)
    if ref.blob is not None:
        found = Original(_read_blob(ref.blob, blobs, settings.max_file_bytes), ref.stamp)
    else:
        roots = [encoded(root) for root in settings.image_roots]
        found = read_file(encoded(ref.place), ref.part, roots, settings.max_file_bytes)
    if not found.data:
        raise EmptyFileError
    return found


def _read_blob(key: str, blobs: Blobs, max_bytes: int) -> bytes:
    data = blobs.get(key)
    if data is None:
        raise BlobMissingError
    if len(data) > max_bytes:
        raise TooLargeError(len(data), max_bytes)
    return data
