"""Images -> records, by the producer's own job runner, as `producer submit` has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from producer.backend.connection import Connection
from producer.jobs.options import JobOptions, request_of
from producer.jobs.redis_transport import RedisTransport
from producer.jobs.run import JobRunner
from producer.sources.scan import STANDARD_INPUT
from worker.contract.labels import LabelPack
from worker.contract.messages import Record

SIX: Final = LabelPack(labels=("动物", "植物", "交通工具", "电子产品", "食物", "自然景观"))


def tag(
    connection: Connection,
    paths: Sequence[str],
    *,
    chunk_images: int | None = None,
    pack: LabelPack = SIX,
    take: Callable[[list[Record]], object],
) -> None:
    """Send all paths as one job, and hand its records to `take` as they come.

    They come as a list on standard input does: nobody counts them, and chunks grow to 64 images.
    """
    request = request_of((STANDARD_INPUT,), pack, JobOptions(chunk_size=chunk_images))
    for records in JobRunner(RedisTransport(connection), request).records(paths):
        take(records)


def tagged(
    connection: Connection, paths: Sequence[str], chunk_images: int | None = None
) -> list[Record]:
    """Return all records of a job."""
    found: list[Record] = []
    tag(connection, paths, chunk_images=chunk_images, take=found.extend)
    return found
