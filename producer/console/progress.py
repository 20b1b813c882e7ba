"""How far a job is: a live bar on a terminal, plain lines elsewhere. Words go to standard error."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from producer.console.tally import Tally
from worker.contract.i18n import gettext as _

LINE_EVERY_S: Final = 5.0


class Lines:
    """Progress for logs and pipes: a line now and then."""

    def __init__(
        self, console: Console, tally: Tally, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._tally = tally
        self._clock = clock
        self._said_s = clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        """Leave the rest to the summary."""

    def update(self, total: int | None) -> None:
        """Say how far we are, if the last line is old enough."""
        now_s = self._clock()
        if now_s - self._said_s < LINE_EVERY_S:
            return
        self._said_s = now_s
        tally = self._tally
        if total is None:
            message = _("{done:,} images, {rate:,.1f} img/s, {failed:,} failed")
        else:
            message = _("{done:,} of {total:,} images, {rate:,.1f} img/s, {failed:,} failed")
        line = message.format(done=tally.done, total=total, rate=tally.rate, failed=tally.failed)
        if total is not None and tally.done:
            seconds = max(0, total - tally.done) / tally.rate
            line += _(", {seconds:,.0f} s left").format(seconds=seconds)
        self._console.print(line, highlight=False)


class Bar:
    """Progress for people: one live line with rate, failures and time left."""

    def __init__(self, console: Console, tally: Tally) -> None:
        self._tally = tally
        self._progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(tally),
            TextColumn(_("{task.fields[failed]} failed")),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("", total=None, failed=0)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._progress.stop()

    def update(self, total: int | None) -> None:
        """Redraw."""
        tally = self._tally
        self._progress.update(self._task, completed=tally.done, total=total, failed=tally.failed)


class _Rate(ProgressColumn):
    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self._tally = tally

    def render(self, task: Task) -> Text:  # noqa: ARG002 - rich passes it
        return Text(_("{rate:,.1f} img/s").format(rate=self._tally.rate))


def progress(console: Console, tally: Tally) -> Bar | Lines:
    """Return the form of progress that suits where standard error goes."""
    return Bar(console, tally) if console.is_terminal else Lines(console, tally)
