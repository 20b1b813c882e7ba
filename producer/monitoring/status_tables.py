"""Jobs, workers and dead letters -> tables for a person, in a terminal of any width."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from producer.backend.workers import WorkerInfo
from producer.console.durations import age
from producer.console.failures import sentence
from worker.contract.i18n import gettext as _
from worker.contract.i18n import gettext_noop as N_
from worker.contract.printable import printable
from worker.contract.stores.dead_letters import DeadLetter
from worker.contract.stores.jobs import Job

LISTED: Final = 20
RAW_CHARS: Final = 60
# So many columns of a terminal hold all that there is to tell of a job.
WIDE: Final = 120
# What is cut off keeps so much, if other columns can go.
_LEAST: Final = 16
# What `Job.status` may be.
_STATES: Final = (
    N_("submitting"),
    N_("submitted"),
    N_("interrupted"),
    N_("cancelled"),
    N_("finished"),
)
# What `Job.priority` may be.
_PRIORITIES: Final = (N_("low"), N_("normal"), N_("high"))
# What is cut off at its beginning.
_TAILS: Final = frozenset({"of", "what"})


def jobs_table(jobs: Sequence[Job], rates: Mapping[str, float], width: int = WIDE) -> Table:
    """Return the jobs, one a row; `rates` are images a second of those that move.

    In a narrow table ids stay whole: other columns give way, at first the age, which the id tells.
    """
    paces = [_pace(job, rates.get(job.id)) for job in jobs]
    wide = width >= WIDE
    columns = {
        N_("job"): [printable(job.id) for job in jobs],
        N_("state"): [printable(_(job.status)) for job in jobs],
        N_("images"): [f"{job.images:,}" for job in jobs],
        N_("done"): [_share(job, wide=wide) for job in jobs],
        N_("failed"): [f"{job.failed:,}" for job in jobs],
        N_("img/s"): [pace for pace, _left in paces],
        N_("left"): [left for _pace_, left in paces],
        N_("age"): [age(time.time() - job.created_at_s) for job in jobs],
        N_("priority"): ["" if job.priority == "normal" else _(job.priority) for job in jobs],
        N_("labels"): [f"{job.labels:,}" if job.labels else "" for job in jobs],
        N_("of"): [printable(job.about) for job in jobs],
    }
    if not any(columns["priority"]):
        del columns["priority"]
    numbers = ("images", "done", "failed", "img/s", "left", "labels")
    form = _Form(
        numbers, ("of",), ("age", "labels", "priority", "img/s", "left", "failed", "images")
    )
    return _table(columns, form, width)


def workers_table(workers: Sequence[WorkerInfo], width: int = WIDE) -> Table:
    """Return the workers online, one a row; in a narrow table names are cut off."""
    rates = [one.images_per_s for one in workers]
    columns = {
        N_("worker"): [printable(one.name) for one in workers],
        N_("model"): [printable(one.model) for one in workers],
        N_("device"): [printable(one.device) for one in workers],
        N_("precision"): [printable(one.precision) for one in workers],
        N_("images"): [f"{one.images:,}" for one in workers],
        N_("failed"): [f"{one.failed:,}" for one in workers],
        N_("img/s"): ["" if rate is None else f"{rate:,.1f}" for rate in rates],
    }
    if any(one.vocabulary for one in workers):
        columns[N_("without labels")] = [printable(one.vocabulary) for one in workers]
    if any(one.problem for one in workers):
        columns[N_("problem")] = [printable(one.problem or "") for one in workers]
    cut, go = ("worker", "model", "problem"), ("precision", "without labels")
    form = _Form(("images", "failed", "img/s"), cut, go)
    return _table(columns, form, width)


def dead_table(letters: Sequence[DeadLetter], width: int = WIDE) -> Table:
    """Return the dead letters, one per row, oldest first; ids for `requeue` are never cut."""
    shown = letters[:LISTED]
    columns = {
        N_("dead letter"): [printable(one.id) for one in shown],
        N_("code"): [printable(one.code) for one in shown],
        N_("what"): [printable(_subject(one)) for one in shown],
        N_("why"): [printable(sentence(one.code, one.reason)) for one in shown],
        N_("age"): [age(time.time() - one.at_s) for one in shown],
    }
    table = _table(columns, _Form((), ("what", "why"), ("age",)), width)
    if more := len(letters) - len(shown):
        table.add_row(_("{more:,} more").format(more=more))
    return table


class _Form(NamedTuple):
    """Columns of numbers; those that are cut off in a narrow table; and those that go, in order."""

    numbers: Sequence[str]
    cut: Sequence[str]
    go: Sequence[str]


def _table(columns: dict[str, list[str]], form: _Form, width: int) -> Table:
    """Return a table; one that is narrow has no lines, and no columns that say nothing."""
    table = Table()
    if width < WIDE:
        table = Table(box=None, padding=(0, 1), pad_edge=False)
        quiet = [name for name, cells in columns.items() if cells and not set(cells) - {"", "0"}]
        columns = {name: cells for name, cells in columns.items() if name not in quiet}
        for name in form.go:
            if _width(columns, form) > width:
                columns.pop(name, None)
    for name in columns:
        justify: JustifyMethod = "right" if name in form.numbers else "left"
        table.add_column(_(name), justify=justify, no_wrap=name not in form.cut)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*map(_cell, columns, row))
    return table


def _width(columns: Mapping[str, Sequence[str]], form: _Form) -> int:
    """Return the least width of a narrow table."""
    total = 0
    for name, cells in columns.items():
        widest = max(map(cell_len, (_(name), *cells)))
        total += 1 + (min(widest, _LEAST) if name in form.cut else widest)
    return total


def _cell(name: str, text: str) -> Text | _Tail:
    # As text: nothing in it is a style.
    return _Tail(text) if name in _TAILS else Text(text, no_wrap=True, overflow="ellipsis")


class _Tail:
    """Text of which the end is shown where not all fits: paths differ in that."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text, width = self._text, options.max_width
        while cell_len(text) + 1 > width and cell_len(self._text) > width:
            text = text[1:]
        yield Text(text if text == self._text else f"…{text}", no_wrap=True, overflow="crop")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, cell_len(self._text))


def _share(job: Job, *, wide: bool) -> str:
    if not job.images:
        return "0"
    share = f"{job.done / job.images:.0%}"
    return f"{job.done:,} ({share})" if wide else share


def _pace(job: Job, rate: float | None) -> tuple[str, str]:
    """Return images a second and the time left, as far as there is something to say."""
    if not job.outstanding or job.state == "cancelled":
        return "", ""
    if not rate:
        return "0" if rate == 0 else "", ""
    return f"{rate:,.1f}", age(job.outstanding / rate)


def job_details(job: Job, rate: float | None = None) -> Table:
    """Return what is known of one job, a line each."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row(_("job"), Text(printable(job.id)))
    if job.about:
        table.add_row(_("of"), Text(printable(job.about)))
        table.add_row(_("labels"), f"{job.labels:,}" if job.labels else _("the model's own"))
    table.add_row(_("state"), Text(printable(_(job.status))))
    if job.priority != "normal":
        table.add_row(_("priority"), _(job.priority))
    table.add_row(
        _("images"),
        _("{images:,} in {chunks:,} chunks").format(images=job.images, chunks=job.chunks),
    )
    table.add_row(
        _("done"), _("{done:,}, {failed:,} of them failed").format(done=job.done, failed=job.failed)
    )
    for code, count in sorted(job.codes.items(), key=lambda one: -one[1]):
        table.add_row("", Text(printable(f"{count:,} {code}")))
    table.add_row(_("outstanding"), f"{job.outstanding:,}")
    pace, left = _pace(job, rate)
    if pace:
        table.add_row(_("images per second"), pace)
    if left:
        table.add_row(_("left"), left)
    table.add_row(_("age"), age(time.time() - job.created_at_s))
    return table


def _subject(letter: DeadLetter) -> str:
    if letter.chunk is None:
        return _("a message: {text}").format(text=letter.raw[:RAW_CHARS])
    images = letter.chunk.images
    return images[0].path if len(images) == 1 else _("{images:,} images").format(images=len(images))
