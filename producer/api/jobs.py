"""Jobs of the HTTP API: images in, as references or bytes; records out, as they come."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

import msgspec
from cachetools import TTLCache

from producer.backend.connection import Connection
from producer.console.paths import about
from producer.formats.jsonl import line_of
from producer.jobs.chunks import Loaded, grouped, make_chunk
from producer.jobs.options import JobOptions
from producer.jobs.publisher import MAX_BYTES, Publisher, Stores
from worker.contract.messages import ImageRef, waiting_s
from worker.contract.queue.job_messages import LossCheck
from worker.contract.stores.jobs import Job

UPLOAD_IMAGES: Final = 8
REFERENCES: Final = 64
# Bytes of so many images may wait in Redis for each job.
MOST_OUTSTANDING: Final = 512
_FOLLOW_S: Final = 0.2
_LOCK_S: Final = 60.0
# Jobs that are asked about, each with what was seen of it.
_MOST_CHECKS: Final = 1024
_CHECK_TTL_S: Final = 600.0


class FullError(RuntimeError):
    """So many images wait that no more bytes are taken."""


class RedisFullError(RuntimeError):
    """The memory of Redis is short: nothing more is taken."""


class ClosedError(RuntimeError):
    """The job takes no more images."""


class ApiJobs:
    """Jobs at a Redis. Several servers may use the same one: what must be in order is locked."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._checks: TTLCache[str, LossCheck] = TTLCache(_MOST_CHECKS, _CHECK_TTL_S)
        self._checks_lock = threading.Lock()

    def create(
        self, options: JobOptions, images: Sequence[str], *, more: bool, labels: int = 0
    ) -> Job:
        """Return a new job of these paths and URLs; with `more` it stays open for uploads.

        So many `labels` were given for it.

        Raises:
            RedisFullError: the memory of Redis is short.
        """
        connection = self._connection
        if images:
            self._check_memory()
        job = connection.jobs.create(
            about(images) if images else "uploads", labels, options.priority
        )
        connection.client.set(
            connection.keys.options(job.id),
            msgspec.json.encode(options),
            ex=waiting_s(connection.settings.result_ttl_s),
        )
        self._send(job.id, options, [Loaded(ImageRef(path)) for path in images], REFERENCES)
        if not more:
            connection.jobs.set_state(job.id, "submitted")
        return connection.jobs.get(job.id)

    def add(self, job_id: str, images: Sequence[Loaded]) -> Job:
        """Send images by their bytes.

        Raises:
            NoSuchJobError: there is no such job.
            ClosedError: it is closed, or cancelled.
            FullError: too many of it wait already.
            RedisFullError: the memory of Redis is short.
        """
        connection = self._connection
        self._check_memory()
        kept_at = connection.keys.options(job_id)
        with connection.client.lock(f"{kept_at}:lock", timeout=_LOCK_S):
            job = connection.jobs.get(job_id)
            kept = connection.client.get(kept_at)
            if kept is None or job.state != "submitting":
                raise ClosedError
            if job.outstanding + len(images) > MOST_OUTSTANDING:
                raise FullError
            options = msgspec.json.decode(kept, type=JobOptions)
            self._send(job_id, options, images, UPLOAD_IMAGES, job)
            return connection.jobs.get(job_id)

    def _check_memory(self) -> None:
        memory = self._connection.memory
        if memory.is_short:
            msg = f"Redis is {memory.percent} % full: try again"
            raise RedisFullError(msg)

    def close(self, job_id: str) -> Job:
        """Take no more images."""
        if self._connection.jobs.get(job_id).state == "submitting":
            self._connection.jobs.set_state(job_id, "submitted")
        return self._connection.jobs.get(job_id)

    def look(self, job_id: str) -> Job:
        """Return a job, after a look whether its messages have vanished, if nothing of it comes.

        Raises:
            NoSuchJobError: there is no such job.
        """
        job = self._connection.jobs.get(job_id)
        if job.outstanding and self._checks_lock.acquire(blocking=False):
            try:
                check = self._checks.get(job_id)
                if check is None:
                    check = self._connection.loss_check(job_id)
                self._checks[job_id] = check
                if check.look(job):
                    job = self._connection.jobs.get(job_id)
            finally:
                self._checks_lock.release()
        return job

    def lines(self, job_id: str, *, follow: bool) -> Iterator[str]:
        """Yield records as lines of JSON: those that are there or, to `follow`, until the end."""
        sent: set[int] = set()
        while True:
            job = self.look(job_id)
            yield from self._new(job, sent)
            if job.finished or not follow:
                return
            time.sleep(_FOLLOW_S)

    def _new(self, job: Job, sent: set[int]) -> Iterator[str]:
        left = [seq for seq in range(job.chunks) if seq not in sent]
        asked = iter(left)
        while some := list(islice(asked, REFERENCES)):
            for outcome in self._connection.jobs.collect(job.id, some):
                sent.add(outcome.seq)
                yield from (f"{line_of(record)}\n" for record in outcome.records())

    def _send(
        self,
        job_id: str,
        options: JobOptions,
        images: Sequence[Loaded],
        size: int,
        before: Job | None = None,
    ) -> None:
        connection, first = self._connection, before.chunks if before else 0
        publisher = Publisher(
            Stores(connection.app, connection.jobs, connection.blobs),
            lambda _: None,
            sent=(before.images, before.chunks) if before else (0, 0),
        )
        publisher.start()
        try:
            for seq, some in enumerate(grouped(images, lambda _: size, MAX_BYTES), first):
                publisher.put(make_chunk(job_id, seq, some, options, connection.keys))
        finally:
            publisher.close()
