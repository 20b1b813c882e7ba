"""Jobs of the HTTP API: images in, as references or bytes; records out, as they come."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Final

import msgspec
import redis
from cachetools import TTLCache
from redis.exceptions import LockError

from producer.backend.connection import Connection
from producer.console.paths import about
from producer.jobs.chunks import Loaded, grouped, make_chunk
from producer.jobs.options import JobOptions
from producer.jobs.publisher import MAX_BYTES, Publisher, Stores
from worker.contract.messages import ImageRef, waiting_s
from worker.contract.queue.job_messages import LossCheck
from worker.contract.stores.jobs import Job, NoSuchJobError

UPLOAD_IMAGES: Final = 8
REFERENCES: Final = 64
# Bytes of so many images may wait in Redis for each job.
MOST_OUTSTANDING: Final = 512
_LOCK_S: Final = 60.0
_LOCKED_S: Final = 2.0
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
        """
        connection = self._connection
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
        self.check_memory()
        kept_at = connection.keys.options(job_id)
        with self._lock(f"{kept_at}:lock"):
            job = connection.jobs.get(job_id)
            kept = connection.client.get(kept_at)
            if kept is None or job.state != "submitting":
                raise ClosedError
            if job.outstanding + len(images) > MOST_OUTSTANDING:
                raise FullError
            options = msgspec.json.decode(kept, type=JobOptions)
            self._send(job_id, options, images, UPLOAD_IMAGES, job)
            return connection.jobs.get(job_id)

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        """Keep other servers out; who holds it for long makes others try again."""
        lock = self._connection.client.lock(name, timeout=_LOCK_S, blocking_timeout=_LOCKED_S)
        if not lock.acquire():
            raise FullError
        try:
            yield
        finally:
            # It may have ended by itself.
            with suppress(LockError):
                lock.release()

    def check_memory(self) -> None:
        """Make sure that Redis takes more.

        Raises:
            RedisFullError: its memory is short.
        """
        memory = self._connection.memory
        if memory.is_short:
            msg = f"Redis is {memory.percent} % full: try again"
            raise RedisFullError(msg)

    def close(self, job_id: str) -> Job:
        """Take no more images."""
        if self._connection.jobs.get(job_id).state == "submitting":
            self._connection.jobs.set_state(job_id, "submitted")
        return self._connection.jobs.get(job_id)

    def progress(self, job_ids: Sequence[str]) -> Mapping[str, tuple[Job, bytes]]:
        """Return jobs with the bits of their chunks; those that are not there are left out."""
        return self._connection.jobs.progress(job_ids)

    def look(self, job_id: str) -> Job:
        """Return a job, after a look whether its messages have vanished, if nothing of it comes.

        Raises:
            NoSuchJobError: there is no such job.
        """
        job = self._connection.jobs.get(job_id)
        return self._connection.jobs.get(job_id) if self.search(job) else job

    def search(self, job: Job) -> bool:
        """Look whether messages of a job have vanished, if nothing of it comes; return whether."""
        if not job.outstanding or not self._checks_lock.acquire(blocking=False):
            return False
        try:
            check = self._checks.get(job.id)
            if check is None:
                check = self._connection.loss_check(job.id)
            self._checks[job.id] = check
            return bool(check.look(job))
        except NoSuchJobError:
            return False
        finally:
            self._checks_lock.release()

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
            _close(publisher)


def _close(publisher: Publisher) -> None:
    """Wait until all is sent; what Redis refuses instead is as if it had never been counted.

    Raises:
        redis.RedisError: Redis is away, or refuses.
    """
    try:
        publisher.close()
    except redis.RedisError:
        with suppress(redis.RedisError):
            publisher.take_back()
        raise
