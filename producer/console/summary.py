"""Records -> a table of what a job found, and the first of its failures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from producer.console.failures import sentence
from worker.contract.i18n import gettext as _
from worker.contract.i18n import ngettext
from worker.contract.messages import CERTAIN, Record
from worker.contract.printable import printable

TOP_LABELS: Final = 15
LISTED_FAILURES: Final = 20


def untagged(images: int) -> str:
    """Return that so many images have no tag, and why."""
    return ngettext(
        "{images:,} image has no tag: no label reached the threshold",
        "{images:,} images have no tag: no label reached the threshold",
        images,
    ).format(images=images)


def uncertain(images: int, least: float) -> str:
    """Return that so many images have guesses alone, and up to which score."""
    return ngettext(
        "{images:,} image has no certain tag: none scores {least:.2f} or more",
        "{images:,} images have no certain tag: none scores {least:.2f} or more",
        images,
    ).format(images=images, least=least)


class Summary:
    """What a job found, in bounded memory: labels counted, the first failures kept.

    Only tags that score at least `least` are counted: others are guesses.
    """

    def __init__(self, least: float = CERTAIN) -> None:
        self._least = least
        self._scores: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
        self._failures: list[Record] = []
        self._failed = self._untagged = self._uncertain = 0

    def add(self, records: Iterable[Record]) -> None:
        """Count the best tag of each image, and failures by name."""
        for record in records:
            if record.error is not None:
                self._failed += 1
                if len(self._failures) < LISTED_FAILURES:
                    self._failures.append(record)
            elif not record.tags:
                self._untagged += 1
            elif certain := [tag for tag in record.tags if tag.score >= self._least]:
                entry = self._scores[certain[0].label]
                entry[0] += 1
                entry[1] += certain[0].score
            else:
                self._uncertain += 1

    def show(self, console: Console) -> None:
        """Print the table of tags, then the failures."""
        if self._scores:
            console.print(self._table())
        if self._uncertain:
            console.print(uncertain(self._uncertain, self._least), highlight=False)
        if self._untagged:
            console.print(untagged(self._untagged), highlight=False)
        for record in self._failures:
            if record.error is not None:
                code = record.error.code
                line = _("failed: {file}: {code}: {message}").format(
                    file=record.path, code=code, message=sentence(code, record.error.message)
                )
                console.print(printable(line), highlight=False, markup=False, soft_wrap=True)
        if self._failed > len(self._failures):
            more = _("and {more:,} more").format(more=self._failed - len(self._failures))
            console.print(more, highlight=False)

    def _table(self) -> Table:
        best = sorted(self._scores.items(), key=lambda entry: -entry[1][0])
        table = Table(_("first tag"), _("images"), _("mean score"), title=None)
        table.columns[1].justify = table.columns[2].justify = "right"
        for label, (images, total) in best[:TOP_LABELS]:
            table.add_row(escape(printable(label)), f"{images:,.0f}", f"{total / images:.2f}")
        if len(best) > TOP_LABELS:
            rest = sum(entry[0] for _label, entry in best[TOP_LABELS:])
            more = _("{more:,} more").format(more=len(best) - TOP_LABELS)
            table.add_row(more, f"{rest:,.0f}", "")
        return table
