"""Job id -> the records of a job that was left alone, out of Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from producer.backend.retry import retry
from producer.formats import Sink
from producer.jobs.collector import STALL_S, STILL_S, SYSTEM_CLOCK, WINDOW_IMAGES, Clock
from worker.contract.i18n import gettext as _
from worker.contract.messages import ChunkResult
from worker.contract.stores.jobs import Job, JobStore, LostChunk

POLL_S: Final = 0.2


class NoResultsError(LookupError):
    """There is nothing to write."""


class Fetched(NamedTuple):
    """What was there. `gone_chunks` were done, but their results have been dropped or expired."""

    job: Job
    images: int
    failed: int
    lost: tuple[LostChunk, ...]
    gone_chunks: int

    def remarks(self) -> Iterator[str]:
        """Yield what a user should know about it."""
        for chunk in self.lost:
            yield _("chunk {seq} has no results: {reason}").format(
                seq=chunk.seq, reason=chunk.reason
            )
        if self.gone_chunks:
            yield _("{chunks:,} chunks were done, but their results have expired").format(
                chunks=self.gone_chunks
            )
        if not self.job.finished:
            yield (
                _(
                    "job {job} is not finished: {done:,} of {images:,} images have results; "
                    "--wait waits for the rest"
                ).format(job=self.job.id, done=self.job.done, images=self.job.images)
            )


def wait(
    jobs: JobStore,
    job_id: str,
    on_stall: Callable[[], None],
    *,
    retry_timeout_s: float = STALL_S,
    clock: Clock = SYSTEM_CLOCK,
) -> None:
    """Return when the job is finished; `on_stall` hears of it when nothing comes for long.

    A Redis that is away, or refuses, is waited for `patience_s`.

    Raises:
        NoSuchJobError: there is no such job, or no more.
        redis.RedisError: Redis stays away.
    """

    def look() -> Job:
        return retry(
            lambda: jobs.get(job_id),
            retry_timeout_s,
            lambda _: on_stall(),
            now=clock.now,
            sleep=clock.sleep,
        )

    done, stall_at_s = -1, 0.0
    while not (job := look()).finished:
        if job.done != done:
            done, stall_at_s = job.done, clock.now() + STALL_S
        elif clock.now() > stall_at_s:
            stall_at_s = clock.now() + STILL_S
            on_stall()
        clock.sleep(POLL_S)


def fetch(jobs: JobStore, job_id: str, sink: Sink) -> Fetched:
    """Write the records of all chunks that have results.

    Raises:
        NoSuchJobError: there is no such job.
    """
    job = jobs.get(job_id)
    images = failed = gone = 0
    lost: list[LostChunk] = []
    step = max(1, WINDOW_IMAGES * job.chunks // max(1, job.images))
    for start in range(0, job.chunks, step):
        seqs = range(start, min(start + step, job.chunks))
        found = jobs.collect(job_id, seqs)
        for outcome in found:
            if isinstance(outcome, ChunkResult):
                for record in outcome.records():
                    sink.write(record)
                images += len(outcome.images)
                failed += outcome.failed
            else:
                lost.append(outcome)
        sink.flush()
        done = jobs.finished_chunks(job_id, seqs)
        gone += len(done - {outcome.seq for outcome in found})
    return Fetched(job, images, failed + len(lost), tuple(lost), gone)
