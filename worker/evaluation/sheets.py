"""An evaluation -> sentences and tables of texts, in the user's language: for a terminal or a page.

Names of labels, folders and files stand in them as they are: whoever shows them escapes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple

from worker.contract.i18n import gettext as _
from worker.contract.i18n import ngettext
from worker.evaluation.evaluation import Evaluation
from worker.evaluation.figures import Figures
from worker.evaluation.thresholds import AtThreshold

_MOST_NAMES: Final = 20


class Sheet(NamedTuple):
    """A table. Of the columns, so many stand at the left; numbers at the right."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    texts: int = 0


def sentences(found: Evaluation) -> Iterator[str]:
    """Yield what was measured on what, and what was left out."""
    count = _("{model} on {device}, {labels:,} labels")
    yield count.format(model=found.model, device=found.device, labels=found.labels)
    scored = found.figures.pictures if found.figures else 0
    yield _("{scored:,} of {all:,} pictures are scored").format(scored=scored, all=found.pictures)
    if found.unlabelled:
        yield ngettext(
            "{count:,} picture has no label", "{count:,} pictures have no label", found.unlabelled
        ).format(count=found.unlabelled)
    if found.not_in_set:
        yield ngettext(
            "{count:,} picture has no label of the set",
            "{count:,} pictures have no label of the set",
            found.not_in_set,
        ).format(count=found.not_in_set)
    if found.unknown:
        yield _("not in the set: {names}").format(names=_counted(found.unknown))
    if found.failed:
        codes = _counted(Counter(one.code for one in found.failed))
        yield _("cannot be read: {codes}").format(codes=codes)


def sheets(figures: Figures, most: int | None = None) -> Iterator[Sheet]:
    """Yield the tables; of labels and of confusions at most so many lines."""
    error = figures.calibration.error
    yield Sheet(
        _("Best labels"),
        ("top-1", "top-5", _("top-1, mean of labels"), _("calibration error")),
        [tuple(map(_share, (figures.top1, figures.top5, figures.top1_mean, error)))],
    )
    yield _thresholds(figures)
    yield _reliability(figures)
    yield _labels(figures, most)
    if figures.confusion:
        yield Sheet(
            _("Most frequent confusions") + _left_out(figures.confusion, most),
            (_("label"), _("taken for"), _("pictures")),
            [(one.label, one.tag, f"{one.pictures:,}") for one in islice(figures.confusion, most)],
            texts=2,
        )


def _thresholds(figures: Figures) -> Sheet:
    given, best = figures.at_threshold, figures.best_threshold
    return Sheet(
        _("Tags that reach the threshold, over all pictures"),
        ("", _("threshold"), _("tags"), _("precision of tags"), _("recall"), "F1"),
        [_threshold(_("in use"), given), _threshold(_("greatest F1"), best)],
        texts=1,
    )


def _threshold(name: str, at: AtThreshold) -> tuple[str, ...]:
    shares = (_share(at.precision), _share(at.recall), _share(at.f1))
    return (name, f"{at.threshold:g}", f"{at.tags:,}", *shares)


def _reliability(figures: Figures) -> Sheet:
    return Sheet(
        _("Scores of best labels, and how often they are right"),
        (_("score"), _("pictures"), _("mean score"), _("right")),
        [
            (
                f"{one.low:.1f}-{one.high:.1f}",
                f"{one.pictures:,}",
                _share(one.score),
                _share(one.right),
            )
            for one in figures.calibration.bins
            if one.pictures
        ],
    )


def _labels(figures: Figures, most: int | None) -> Sheet:
    return Sheet(
        _("Labels, the worst first") + _left_out(figures.labels, most),
        (_("label"), _("pictures"), "top-1", "top-5", _("precision of tags")),
        [
            (one.label, f"{one.pictures:,}", *map(_share, (one.top1, one.top5, one.precision)))
            for one in islice(figures.labels, most)
        ],
        texts=1,
    )


def _left_out(rows: Sequence[object], most: int | None) -> str:
    if most is None or len(rows) <= most:
        return ""
    return _(" ({shown} of {all:,})").format(shown=most, all=len(rows))


def _counted(counts: Mapping[str, int]) -> str:
    """Return names with their counts, the most frequent first, and how many more there are."""
    ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    names = [f"{name} ({count:,})" for name, count in ordered[:_MOST_NAMES]]
    if more := len(ordered) - len(names):
        names.append(_("{more:,} more").format(more=more))
    return ", ".join(names)


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
