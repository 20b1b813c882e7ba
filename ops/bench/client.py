"""Images -> records, by the producer's own parts: what `producer submit` does without its words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from producer.backend.connection import Connection
from producer.jobs.collector import Collector
from producer.jobs.feeder import Feeder, JobOptions
from producer.jobs.publisher import Stores
from producer.jobs.run import MAX_IMAGES
from producer.jobs.window import Window
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
    """Send all paths as one job, and hand its records to `take` as they come."""
    job = connection.jobs.create().id
    options = JobOptions(
        job=job,
        labels=connection.labels.put(pack),
        top_k=5,
        threshold=0.0,
        chunk_images=chunk_images,
        as_blobs=False,
        max_bytes=connection.settings.max_file_bytes,
    )
    window = Window(MAX_IMAGES, 2**30)
    stores = Stores(connection.app, connection.jobs, connection.blobs)
    feeder = Feeder(paths, options, stores, window, lambda: len(paths))
    feeder.start()
    for records in Collector(connection.jobs, job, window, feeder.check).records():
        take(records)


def tagged(
    connection: Connection, paths: Sequence[str], chunk_images: int | None = None
) -> list[Record]:
    """Return all records of a job."""
    found: list[Record] = []
    tag(connection, paths, chunk_images=chunk_images, take=found.extend)
    return found
