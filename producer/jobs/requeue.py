"""Dead letters -> a new job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from producer.console.paths import about
from producer.jobs.chunks import Loaded, OutgoingChunk, make_chunk
from producer.jobs.options import JobOptions
from producer.jobs.publisher import Publisher, Stores
from worker.contract.messages import Chunk

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
        publisher.put(_resent(connection, chunk, job, seq))
    publisher.close()
    connection.jobs.set_state(job, "submitted")
    connection.dead.remove(letter for letter in letters if letter.chunk is not None)
    connection.blobs.drop(image.blob for chunk in chunks for image in chunk.images if image.blob)
    return job, sent


def _resent(connection: Connection, chunk: Chunk, job: str, seq: int) -> OutgoingChunk:
    """Return the chunk as one of the new job, with blobs of its own."""
    images = []
    for index, image in enumerate(chunk.images):
        fresh = None
        if image.blob is not None:
            fresh = connection.keys.blob(job, seq, index)
            connection.blobs.copy(image.blob, fresh)
        images.append(Loaded(msgspec.structs.replace(image, blob=fresh)))
    options = JobOptions(
        labels=chunk.labels,
        top_k=chunk.top_k,
        threshold=chunk.threshold,
        embeddings=chunk.embeddings,
        thumbnail_px=chunk.thumbnail_px,
    )
    return make_chunk(job, seq, images, options, connection.keys, urgent=chunk.urgent)
