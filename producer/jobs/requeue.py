"""Dead letters -> a new job."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from producer.console.paths import about
from producer.jobs.publisher import OutgoingChunk, Publisher, Stores
from worker.contract.messages import Chunk
from worker.contract.stores.blobs import blob_key

if TYPE_CHECKING:
    from producer.backend.connection import Connection
    from worker.contract.stores.dead_letters import DeadLetter


def requeue(connection: Connection, letters: Sequence[DeadLetter]) -> tuple[str, int]:
    """Send the letters' images as a new job and take them off the list; return job and number.

    Letters without images stay.
    """
    chunks = [letter.chunk for letter in letters if letter.chunk is not None]
    paths = [image.path for chunk in chunks for image in chunk.images]
    job, sent = connection.jobs.create(about(paths)).id, 0

    def count(images: int) -> None:
        nonlocal sent
        sent += images

    publisher = Publisher(Stores(connection.app, connection.jobs, connection.blobs), count)
    publisher.start()
    for seq, chunk in enumerate(chunks):
        publisher.put(OutgoingChunk(_anew(connection, chunk, job, seq), {}))
    publisher.close()
    connection.jobs.set_state(job, "submitted")
    connection.dead.remove(letter for letter in letters if letter.chunk is not None)
    connection.blobs.drop(image.blob for chunk in chunks for image in chunk.images if image.blob)
    return job, sent


def _anew(connection: Connection, chunk: Chunk, job: str, seq: int) -> Chunk:
    """Return the chunk as one of the new job, with blobs of its own."""
    images = []
    for index, image in enumerate(chunk.images):
        fresh = None
        if image.blob is not None:
            fresh = blob_key(job, seq, index)
            connection.blobs.copy(image.blob, fresh)
        images.append(msgspec.structs.replace(image, blob=fresh))
    return msgspec.structs.replace(
        chunk, job=job, seq=seq, images=tuple(images), sent_at_s=time.time()
    )
