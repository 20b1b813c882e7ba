"""A job whose records go to an output: what is done there is passed over, the rest is tagged."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import NamedTuple

import redis

from producer.arguments import argument
from producer.errors import ExistingRecordsError, raises_producer_errors
from producer.formats import Sink
from producer.formats.output import Output
from producer.jobs.resume import ResumeState, resume_state_of
from producer.jobs.run import Echo, JobRunner
from producer.sources.scan import Image
from worker.contract.i18n import gettext as _
from worker.contract.messages import Record
from worker.contract.stores.jobs import JobStore

Batches = Generator[list[Record], None, None]


class Writing(NamedTuple):
    """Where records go, and what becomes of those that are there.

    They are refused, unless they are gone on with (`resume`) or replaced (`overwrite`).
    """

    output: Output
    resume: bool = False
    retry_failed: bool = False
    overwrite: bool = False


@contextmanager
def prepared(writing: Writing, echo: Echo, *, is_dry: bool = False) -> Iterator[ResumeState]:
    """Keep other commands from the output in the block; yield what is done there already.

    Raises:
        InUseError: another command writes it.
        ExistingRecordsError: it holds something; in a dry run that is only said.
        RecordsError: it is to be gone on with, and holds something else than records.
    """
    output = writing.output
    with output.held(echo):
        state = resume_state_of(output.target, retries_failed=writing.retry_failed)
        if writing.resume:
            output.fetch()
            state.read()
        elif not writing.overwrite:
            try:
                output.refuse_to_replace(
                    _("continue with {resume}").format(resume=argument("resume"))
                )
            except ExistingRecordsError as e:
                if not is_dry:
                    raise
                echo(_("note: {note}").format(note=e))
        yield state


def prepare_and_tag(
    runner: JobRunner,
    find: Callable[[], Iterable[Image]],
    writing: Writing,
    jobs: JobStore | None,
    echo: Echo,
) -> Batches:
    """Yield the records of the images that `find` returns; see `tag`.

    `echo` is called with what a person should know of how they were written, too.
    """
    with raises_producer_errors(), prepared(writing, echo) as state:
        yield from tag(runner, find(), writing, state, jobs, echo)
    for remark in writing.output.remarks():
        echo(remark)


def tag(
    runner: JobRunner,
    images: Iterable[Image],
    writing: Writing,
    state: ResumeState,
    jobs: JobStore | None,
    echo: Echo,
) -> Batches:
    """Yield the records as they come, some at a time, when they are safe in the output.

    From `jobs` comes what a job that broke off has left. Closing it early stops the sending; what
    was sent will still be tagged.

    Raises:
        ProducerError: what ended the job.
    """
    output = writing.output
    with raises_producer_errors():
        source = runner.check_worker()
        with output.sink(appends=writing.resume) as sink:
            if writing.resume:
                taken = state.take_over(jobs, source) if jobs else iter(())
                yield from _taken_over(taken, sink, state, echo)
                images = state.pending(images, source)
            begin = partial(state.begin, replaces=writing.overwrite)
            try:
                for records in runner.records(images, begin):
                    _write(records, sink)
                    yield records
            finally:
                _note_sent_again(jobs, runner.job, state)
        state.end()
        output.deliver()


def _note_sent_again(jobs: JobStore | None, job: str, state: ResumeState) -> None:
    """Let `producer doctor` know that images which were lost are not any more."""
    if jobs and job and state.sent_again:
        with suppress(redis.RedisError):
            jobs.note_sent_again(job, state.sent_again)


def _taken_over(
    taken: Iterator[list[Record]], sink: Sink, state: ResumeState, echo: Echo
) -> Iterator[list[Record]]:
    count = 0
    for records in taken:
        _write(records, sink)
        count += len(records)
        yield records
    message = _("resuming: {done:,} images are done, {meanwhile:,} of them since the last run")
    echo(message.format(done=state.images, meanwhile=count))


def _write(records: Iterable[Record], sink: Sink) -> None:
    for record in records:
        sink.write(record)
    sink.flush()
