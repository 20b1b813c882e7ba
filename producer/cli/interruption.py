"""A command that ends early -> where its results are, and how to get the others."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from producer.cli.exit_codes import echo
from producer.errors import JobLostError
from producer.jobs.tagging import Writing
from worker.contract.i18n import gettext as _


class JobUnderWay(Protocol):
    """A job, and how far it is."""

    @property
    def job(self) -> str:
        """Its id; empty before it has begun."""

    @property
    def done(self) -> int:
        """How many images have a record."""


class Interruption:
    """Explains, if its block ends early, what has become of `job`.

    Of one whose results are not waited for, `sent` says how many images have gone.
    """

    def __init__(self, writing: Writing, *, keeps: bool) -> None:
        """Take where records go; Redis `keeps` what was sent, unless it was that of a command."""
        self._output = writing.output
        self._writing = writing
        self._keeps = keeps
        self.job: JobUnderWay | None = None
        self.sent: Callable[[], int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Who ends with a broken pipe has read enough, and asks for nothing.
        if error is None or isinstance(error, BrokenPipeError):
            return
        if state := self._state(is_interrupt=isinstance(error, KeyboardInterrupt)):
            echo(state)
        job = self.job.job if self.job else ""
        if not job or not self._keeps:
            return
        # What a Redis has lost will not be tagged; what is in the file is there.
        if not isinstance(error, JobLostError):
            message = _("what was sent will still be tagged: producer results {job} --out FILE")
            echo(message.format(job=job))
            echo(_("or cancel it: producer cancel {job}").format(job=job))
        if self._writing.overwrite:
            echo(_("or continue: the same command with --resume in place of --overwrite"))
        elif self._has_file or (self._output.target and self._output.target.in_sidecars):
            echo(_("or continue: the same command with --resume"))

    @property
    def _has_file(self) -> bool:
        return bool(self._output.target and self._output.target.file)

    def _state(self, *, is_interrupt: bool) -> str:
        """Return where the results are; "" if there is nothing to say."""
        file = self._output.target and self._output.target.file
        if self.job and self.job.job:
            return self._state_of(self.job, is_interrupt=is_interrupt)
        if not is_interrupt:
            return ""
        if file and file.exists():
            return _("interrupted before any work began; {file} is unchanged").format(file=file)
        return _("interrupted before any work began")

    def _state_of(self, job: JobUnderWay, *, is_interrupt: bool) -> str:
        """Return how far a job is that has begun."""
        if self.sent:
            message = _("stopped while sending: {images:,} images were sent")
            if is_interrupt:
                message = _("interrupted while sending: {images:,} images were sent")
            return message.format(images=self.sent())
        if self._output.is_untouched:
            message = _("stopped before any result came; {file} is unchanged")
            if is_interrupt:
                message = _("interrupted before any result came; {file} is unchanged")
            return message.format(file=self._output.target and self._output.target.file)
        message = _("stopped: {results:,} results are in {place}")
        if is_interrupt:
            message = _("interrupted: {results:,} results are in {place}")
        return message.format(results=job.done, place=self._output.place)
