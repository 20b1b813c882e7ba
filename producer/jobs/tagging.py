"""A job whose records go to an output: what is done there is passed over, the rest is tagged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import msgspec

from producer.errors import ExistingRecordsError
from producer.formats import Sink
from producer.formats.output import Output
from producer.jobs.options import TagSource
from producer.jobs.resume import ResumeState, resume_state_of
from producer.jobs.run import Echo, JobRunner
from producer.sources.scan import Image
from worker.contract.i18n import gettext as _
from worker.contract.messages import Record
from worker.contract.stores.jobs import JobStore


class Writing(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of what the output holds: refused, unless it is gone on with or replaced."""

    resume: bool = False
    retry_failed: bool = False
    overwrite: bool = False


@contextmanager
def prepared(
    output: Output, writing: Writing, echo: Echo, *, is_dry: bool = False
) -> Iterator[ResumeState]:
    """Keep other commands from the output in the block; yield what is done there already.

    Raises:
        InUseError: another command writes it.
        ExistingRecordsError: it holds something; in a dry run that is only said.
        RecordsError: it is to be gone on with, and holds something else than records.
    """
    with output.held(echo):
        state = resume_state_of(output.target, retries_failed=writing.retry_failed)
        if writing.resume:
            output.fetch()
            state.read()
        elif not writing.overwrite:
            try:
                output.refuse_to_replace(_("continue with --resume"))
            except ExistingRecordsError as e:
                if not is_dry:
                    raise
                echo(_("note: {note}").format(note=e))
        yield state


class Tagging:
    """A job, its output, and what is done there already; see `batches`."""

    def __init__(
        self,
        runner: JobRunner,
        output: Output,
        writing: Writing,
        state: ResumeState,
        jobs: JobStore | None,
        echo: Echo,
    ) -> None:
        """Take what is to be done; from `jobs` comes what a job that broke off has left."""
        self._runner = runner
        self._output = output
        self._writing = writing
        self._state = state
        self._jobs = jobs
        self._echo = echo

    def batches(self, images: Iterable[Image]) -> Iterator[list[Record]]:
        """Yield the records as they come, some at a time, when they are safe in the output.

        Closing it early stops the sending; what was sent will still be tagged.

        Raises:
            ProducerError: what ended the job.
        """
        source = self._runner.check_worker()
        resume = self._writing.resume
        with self._output.sink(appends=resume) as sink:
            if resume:
                yield from self._taken_over(sink, source)
                images = self._state.pending(images, source)
            begin = partial(self._state.begin, replaces=self._writing.overwrite)
            for records in self._runner.records(images, begin):
                _write(records, sink)
                yield records
        self._state.end()
        self._output.deliver()

    def _taken_over(self, sink: Sink, source: TagSource) -> Iterator[list[Record]]:
        taken = 0
        if self._jobs is not None:
            for records in self._state.take_over(self._jobs, source):
                _write(records, sink)
                taken += len(records)
                yield records
        self._echo(
            _(
                "resuming: {done:,} images are done, {meanwhile:,} of them since the last run"
            ).format(done=self._state.images, meanwhile=taken)
        )


def _write(records: Iterable[Record], sink: Sink) -> None:
    for record in records:
        sink.write(record)
    sink.flush()
