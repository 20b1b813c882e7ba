"""Dead letters -> a new job."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from producer.console.paths import about
from producer.jobs.publisher import Outbox, Parcel, Post
from worker.contract.messages import Chunk
from worker.contract.stores.blobs import blob_key

if TYPE_CHECKING:
    from producer.backend.connection import Desk
    from worker.contract.stores.dead_letters import DeadLetter


def requeue(desk: Desk, letters: Sequence[DeadLetter]) -> tuple[str, int]:
    """Send the letters' images as a new job and take them off the list; return job and number.

    Letters without images stay.
    """
    chunks = [letter.chunk for letter in letters if letter.chunk is not None]
    paths = [image.path for chunk in chunks for image in chunk.images]
    job, sent = desk.jobs.create(about(paths)).id, 0

    def count(images: int) -> None:
        nonlocal sent
        sent += images

    outbox = Outbox(Post(desk.app, desk.jobs, desk.blobs), count)
    outbox.start()
    for seq, chunk in enumerate(chunks):
        outbox.put(Parcel(_anew(desk, chunk, job, seq), {}))
    outbox.close()
    desk.jobs.set_state(job, "submitted")
    desk.dead.remove(letter for letter in letters if letter.chunk is not None)
    desk.blobs.drop(image.blob for chunk in chunks for image in chunk.images if image.blob)
    return job, sent


def _anew(desk: Desk, chunk: Chunk, job: str, seq: int) -> Chunk:
    """Return the chunk as one of the new job, with blobs of its own."""
    images = []
    for index, image in enumerate(chunk.images):
        fresh = None
        if image.blob is not None:
            fresh = blob_key(job, seq, index)
            desk.blobs.copy(image.blob, fresh)
        images.append(msgspec.structs.replace(image, blob=fresh))
    return msgspec.structs.replace(
        chunk, job=job, seq=seq, images=tuple(images), sent_at_s=time.time()
    )
