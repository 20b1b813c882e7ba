"""Records and jobs -> tables and lines for a person."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from producer.language import translated
from producer.names import printable
from producer.workers import WorkerInfo
from worker.contract.dead import DeadLetter
from worker.contract.jobs import Job
from worker.contract.messages import Record

TOP_LABELS: Final = 15
LISTED_FAILURES: Final = 20
RAW_CHARS: Final = 60
_MINUTE_S: Final = 60
_HOUR_S: Final = 3600


class Summary:
    """What a job found, in bounded memory: labels counted, the first failures kept."""

    def __init__(self) -> None:
        self._scores: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
        self._failures: list[Record] = []
        self._failed = 0

    def add(self, records: Iterable[Record]) -> None:
        """Count the best tag of each image, and failures by name."""
        for record in records:
            if record.error is not None:
                self._failed += 1
                if len(self._failures) < LISTED_FAILURES:
                    self._failures.append(record)
            elif record.tags:
                entry = self._scores[record.tags[0].label]
                entry[0] += 1
                entry[1] += record.tags[0].score

    def show(self, console: Console) -> None:
        """Print the table of tags, then the failures."""
        if self._scores:
            console.print(self._table())
        for record in self._failures:
            if record.error is not None:
                name = printable(record.path)
                line = f"failed: {name}: {record.error.code}: {record.error.message}"
                console.print(translated(line), highlight=False, markup=False, soft_wrap=True)
        if self._failed > len(self._failures):
            more = f"and {self._failed - len(self._failures):,} more"
            console.print(translated(more), highlight=False)

    def _table(self) -> Table:
        best = sorted(self._scores.items(), key=lambda entry: -entry[1][0])
        table = Table(*map(translated, ("first tag", "images", "mean score")), title=None)
        table.columns[1].justify = table.columns[2].justify = "right"
        for label, (images, total) in best[:TOP_LABELS]:
            table.add_row(escape(label), f"{images:,.0f}", f"{total / images:.2f}")
        if len(best) > TOP_LABELS:
            rest = sum(entry[0] for _, entry in best[TOP_LABELS:])
            more = translated(f"{len(best) - TOP_LABELS:,} more")
            table.add_row(more, f"{rest:,.0f}", "")
        return table


def human_line(record: Record) -> str:
    """Return a record as a person reads it on a terminal."""
    name = printable(PurePath(record.path).name)
    if record.error is not None:
        return f"{name}  failed: {record.error.message}"
    return f"{name}  " + ", ".join(f"{tag.label} {tag.score:.2f}" for tag in record.tags)


def jobs_table(jobs: Sequence[Job], rates: Mapping[str, float]) -> Table:
    """Return the jobs, one a row; `rates` are images a second of those that move."""
    table = Table("job", "state", "images", "done", "failed", "img/s", "left", "age")
    for column in table.columns[2:7]:
        column.justify = "right"
    for job in jobs:
        share = f"{job.done:,} ({job.done / job.images:.0%})" if job.images else "0"
        numbers = (f"{job.images:,}", share, f"{job.failed:,}")
        since = age(time.time() - job.created_at_s)
        table.add_row(job.id, state_of(job), *numbers, *_pace(job, rates.get(job.id)), since)
    return table


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
    table.add_row("job", job.id)
    table.add_row("state", state_of(job))
    table.add_row("images", f"{job.images:,} in {job.chunks:,} chunks")
    table.add_row("done", f"{job.done:,}, {job.failed:,} of them failed")
    for code, count in sorted(job.codes.items(), key=lambda one: -one[1]):
        table.add_row("", f"{count:,} {code}")
    table.add_row("outstanding", f"{job.outstanding:,}")
    pace, left = _pace(job, rate)
    if pace:
        table.add_row("images a second", pace)
    if left:
        table.add_row("left", left)
    table.add_row("age", age(time.time() - job.created_at_s))
    return table


def workers_table(workers: Sequence[WorkerInfo]) -> Table:
    """Return the workers online, one a row."""
    table = Table("worker", "model", "device", "precision", "images", "failed", "img/s")
    for column in table.columns[4:]:
        column.justify = "right"
    for worker in workers:
        rate = worker.images_per_s
        pace = "" if rate is None else f"{rate:,.1f}"
        numbers = (f"{worker.images:,}", f"{worker.failed:,}", pace)
        table.add_row(worker.name, worker.model, worker.device, worker.precision, *numbers)
    return table


def dead_table(letters: Sequence[DeadLetter]) -> Table:
    """Return what was given up, one a row, the oldest first."""
    table = Table("given up", "code", "what", "why", "age")
    for letter in letters[:LISTED_FAILURES]:
        since = age(time.time() - letter.at_s)
        what = printable(_subject(letter))
        table.add_row(letter.id, letter.code, escape(what), escape(printable(letter.reason)), since)
    if len(letters) > LISTED_FAILURES:
        table.add_row(f"{len(letters) - LISTED_FAILURES:,} more", "", "", "", "")
    return table


def _subject(letter: DeadLetter) -> str:
    if letter.chunk is None:
        return f"a message: {letter.raw[:RAW_CHARS]}"
    images = letter.chunk.images
    return images[0].path if len(images) == 1 else f"{len(images):,} images"


def state_of(job: Job) -> str:
    """Return where a job stands, in a word."""
    if job.state in {"cancelled", "interrupted"}:
        return job.state
    return "finished" if job.finished else job.state


def age(seconds: float) -> str:
    """Return a time span in its largest sensible unit."""
    if seconds < _MINUTE_S:
        return f"{max(seconds, 0):.0f} s"
    if seconds < _HOUR_S:
        return f"{seconds / _MINUTE_S:.0f} min"
    return f"{seconds / _HOUR_S:.1f} h"
