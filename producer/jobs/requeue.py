"""Dead letters -> a new job, or the same messages once more."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import redis

from producer.console.paths import about
from producer.jobs.chunks import Loaded, OutgoingChunk, make_chunk
from producer.jobs.options import JobOptions
from producer.jobs.publisher import Publisher, Stores
from worker.contract.codec import decode
from worker.contract.messages import QUEUE, TASK, Chunk, split_task_id

if TYPE_CHECKING:
    from producer.backend.connection import Connection
    from worker.contract.stores.dead_letters import DeadLetter


class Requeued(NamedTuple):
    """What was sent: `images` as a new `job`, and `messages` as they were, in their own jobs.

    Of the letters so many are `elsewhere`: somebody else is sending them, or has just done so.
    """

    job: str
    images: int
    messages: int
    jobs: tuple[str, ...]
    elsewhere: int = 0


def requeue(connection: Connection, letters: Sequence[DeadLetter]) -> Requeued:
    """Send letters again and take them off the list; those that cannot be sent stay.

    What could be read goes as a new job, what could not as it was. Whatever is sent by somebody
    else at this time is left to that: each letter is sent once.
    """
    sendable = [one for one in letters if one.can_be_sent]
    mine = connection.dead.claim(sendable)
    unread = [one for one in mine if one.chunk is None]
    try:
        job, images = _send_anew(connection, [one for one in mine if one.chunk is not None])
        for letter in unread:
            _send_as_it_was(connection, letter)
    except BaseException:
        # What was sent is off the list by now. If Redis is away, the claims end by themselves.
        with suppress(redis.RedisError):
            connection.dead.release(mine)
        raise
    jobs = [place[0] for one in unread if (place := split_task_id(one.task_id))]
    elsewhere = len(sendable) - len(mine)
    return Requeued(job, images, len(unread), tuple(dict.fromkeys(jobs)), elsewhere)


def _send_anew(connection: Connection, letters: Sequence[DeadLetter]) -> tuple[str, int]:
    """Send the letters' images as a new job; return it, and how many they are."""
    chunks = [letter.chunk for letter in letters if letter.chunk is not None]
    if not chunks:
        return "", 0
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
    connection.dead.remove(letters)
    connection.blobs.drop(image.blob for chunk in chunks for image in chunk.images if image.blob)
    return job, sent


def _send_as_it_was(connection: Connection, letter: DeadLetter) -> None:
    """Send a message once more, under its own id, and let its job wait for it again.

    It was counted as failed, if its images could be counted: its results would be left otherwise.
    """
    place = split_task_id(letter.task_id)
    if place and letter.images:
        connection.jobs.reopen_chunk(*place, images=letter.images)
    if letter.form == "message":
        client: Any = connection.client
        client.lpush(connection.keys.queue, letter.raw)
    else:
        args = [decode(letter.raw)]
        connection.app.send_task(TASK, args=args, task_id=letter.task_id, queue=QUEUE, declare=())
    connection.dead.remove([letter])


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
