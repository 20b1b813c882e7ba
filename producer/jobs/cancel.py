"""Job id -> a job that is cancelled: what waits of it leaves the queue, and its memory is free."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final

from worker.contract import failures
from worker.contract.codec import decode
from worker.contract.messages import Chunk, ChunkResult, ImageResult, MessageError
from worker.contract.queue.envelope import EnvelopeError, open_envelope
from worker.contract.queue.job_messages import take_out
from worker.contract.stores.job_records import cancelled_body, success_body

if TYPE_CHECKING:
    from producer.backend.connection import Connection
    from worker.contract.stores.jobs import Job

CANCELLED: Final = "cancelled"


def cancel(connection: Connection, job_id: str) -> Job:
    """Cancel a job and return it; one that is finished stays so.

    Its images that wait fail with the code `cancelled`, and their bytes are deleted at once, also
    where Redis is full; what workers hold fails as soon as they look.

    Raises:
        NoSuchJobError: there is none.
        redis.RedisError: Redis is away.
    """
    jobs = connection.jobs
    jobs.set_state(job_id, "cancelled")
    job = jobs.get(job_id)
    if job.state != CANCELLED:
        return job
    is_short = connection.memory.is_short
    for raw in take_out(connection.client, connection.keys, job_id):
        if (chunk := _chunk_in(raw)) is not None:
            connection.blobs.drop(image.blob for image in chunk.images if image.blob)
            body = cancelled_body(chunk.task_id, job_id) if is_short else _result(chunk)
            jobs.fail_chunk(chunk, CANCELLED, body)
    return jobs.get(job_id)


def _chunk_in(raw: bytes) -> Chunk | None:
    """Return the chunk of a message; of one that cannot be read, none: it counts as lost."""
    try:
        body = open_envelope(raw)["body"]
        args, _kwargs, _embed = decode(base64.b64decode(body))
        return Chunk.from_wire(args[0])
    except (EnvelopeError, MessageError, ValueError):
        return None


def _result(chunk: Chunk) -> bytes:
    """Return the result that a worker would store, in Celery's form."""
    failure = failures.cancelled(chunk.job)
    result = ChunkResult(
        v=chunk.v,
        job=chunk.job,
        seq=chunk.seq,
        worker="",
        device="",
        model="",
        labels=chunk.labels,
        images=tuple(ImageResult(path=image.path, error=failure) for image in chunk.images),
    )
    return success_body(result)
