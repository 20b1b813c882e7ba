"""Job id -> the records of a job that was left alone, out of Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from producer.console.failures import sentence
from producer.formats import Sink
from producer.jobs.collector import STALL_S, STILL_S, SYSTEM_CLOCK, WINDOW_IMAGES, Clock
from worker.contract.i18n import gettext as _
from worker.contract.messages import ChunkResult, Record
from worker.contract.redis.retry import RetryPolicy
from worker.contract.stores.jobs import LOST, Job, JobStore, LostChunk

POLL_S: Final = 0.2


class Fetched(NamedTuple):
    """What was there. `gone_chunks` were done, but their results have been dropped or expired.

    `lost` are the chunks that failed as a whole and whose images are not known. The chunks that
    were `read` still have their results.
    """

    job: Job
    images: int
    failed: int
    lost: tuple[LostChunk, ...]
    gone_chunks: int
    read: Sequence[int] = ()

    def _lost_by_reason(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for chunk in self.lost:
            reason = chunk.reason if chunk.code == LOST else sentence(chunk.code, chunk.reason)
            found.setdefault(reason, []).append(chunk.seq)
        return found

    def remarks(self) -> Iterator[str]:
        """Yield what a user should know about it."""
        for reason, seqs in self._lost_by_reason().items():
            if len(seqs) == 1:
                message = _("chunk {seq} has no results: {reason}")
                yield message.format(seq=seqs[0], reason=reason)
            else:
                message = _("{chunks:,} chunks have no results: {reason}")
                yield message.format(chunks=len(seqs), reason=reason)
        if self.gone_chunks:
            yield _(
                "the results of {chunks:,} chunks are no longer there: they were dropped, or have "
                "expired"
            ).format(chunks=self.gone_chunks)
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
    on_still: Callable[[], None] = lambda: None,
    retry_timeout_s: float = STALL_S,
    clock: Clock = SYSTEM_CLOCK,
) -> None:
    """Return when the job is finished; `on_stall` is called when nothing comes for long.

    `on_still` is called again and again meanwhile.

    A Redis that is away, or refuses, is asked again for `retry_timeout_s`.

    Raises:
        NoSuchJobError: there is no such job, or no more.
        redis.RedisError: Redis stays away.
    """
    policy = RetryPolicy(retry_timeout_s, now=clock.now)

    def look() -> Job:
        return policy.call(lambda: jobs.get(job_id), lambda _: on_stall())

    done, stall_at_s = -1, 0.0
    while not (job := look()).finished:
        if job.done != done:
            done, stall_at_s = job.done, clock.now() + STALL_S
        elif clock.now() > stall_at_s:
            stall_at_s = clock.now() + STILL_S
            on_stall()
        on_still()
        clock.sleep(POLL_S)


class StoredResults:
    """The records of a job that are in Redis, and what there was to be seen on the way."""

    def __init__(self, jobs: JobStore, job_id: str, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._jobs = jobs
        self._clock = clock
        self._job = jobs.get(job_id)
        self._images = self._failed = self._gone = 0
        self._read: list[int] = []
        self._lost: list[LostChunk] = []

    def records(self, *, drops: bool = False) -> Iterator[list[Record]]:
        """Yield the records of all chunks that have results or failed, some at a time.

        With `drops`, results are deleted when the next records are asked for: those yielded before
        must be safe by then.
        """
        job = self._job
        # Reading is a sign of life: what is read is kept from now on.
        keep_s = self._jobs.touch(job.id)
        step = max(1, WINDOW_IMAGES * job.chunks // max(1, job.images))
        missing: list[int] = []
        for start in range(0, job.chunks, step):
            seqs = range(start, min(start + step, job.chunks))
            # Asked first: what is done after this question is no concern of the next one.
            done = self._jobs.finished_chunks(job.id, seqs)
            found = self._jobs.collect(job.id, seqs, keep_s=keep_s)
            missing += sorted(done - {outcome.seq for outcome in found})
            yield from self._records_of(found, drops=drops)
        if missing:
            yield from self._look_again(missing, step, drops=drops)

    def _look_again(
        self, missing: Sequence[int], step: int, *, drops: bool
    ) -> Iterator[list[Record]]:
        """Yield what was counted and not there, and came meanwhile; the rest is gone."""
        # Who finds that messages are lost, counts them first and stores why afterwards.
        self._clock.sleep(POLL_S)
        for start in range(0, len(missing), step):
            seqs = missing[start : start + step]
            found = self._jobs.collect(self._job.id, seqs)
            gone = set(seqs) - {outcome.seq for outcome in found}
            # One that is sent again is not done any more.
            self._gone += len(self._jobs.finished_chunks(self._job.id, sorted(gone)))
            yield from self._records_of(found, drops=drops)

    def _records_of(
        self, found: Sequence[ChunkResult | LostChunk], *, drops: bool
    ) -> Iterator[list[Record]]:
        read = []
        for outcome in found:
            records = outcome.records()
            if isinstance(outcome, LostChunk) and not records:
                self._lost.append(outcome)
                continue
            self._images += len(records)
            self._failed += sum(record.status == "failed" for record in records)
            yield records
            read.append(outcome.seq)
        if drops and read:
            self._jobs.drop_results(self._job.id, read)
        else:
            self._read += read

    def summary(self) -> Fetched:
        """Return what was there, as far as it has been gone through."""
        failed = self._failed + len(self._lost)
        lost, read = tuple(self._lost), tuple(self._read)
        return Fetched(self._job, self._images, failed, lost, self._gone, read)


def fetch(jobs: JobStore, job_id: str, sink: Sink, *, drops: bool = False) -> Fetched:
    """Write the records of all chunks that have results; with `drops`, delete what is written.

    Raises:
        NoSuchJobError: there is no such job.
    """
    stored = StoredResults(jobs, job_id)
    for records in stored.records(drops=drops):
        for record in records:
            sink.write(record)
        sink.flush()
    return stored.summary()
