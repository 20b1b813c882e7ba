"""Records and jobs -> tables and lines for a person."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePath
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from producer.console.i18n import translated
from producer.console.paths import printable
from worker.contract.messages import Record
from worker.contract.stores.jobs import Job

TOP_LABELS: Final = 15
LISTED_FAILURES: Final = 20
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
