"""Answers -> figures: top-1, top-5, each label, calibration, confusion, the worst mistakes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from worker.evaluation.answers import Answer
from worker.evaluation.thresholds import AtThreshold, Thresholds
from worker.evaluation.truth import Truth

BINS: Final = 10
# So many are kept, and shown on the page.
MOST_MISTAKES: Final = 100


class LabelFigures(msgspec.Struct, frozen=True, kw_only=True):
    """A true label: on how many pictures it is, and how often the model says so.

    `top1` and `top5` are shares of those pictures; `precision` is the share that is right of the
    pictures whose best label says this one, None if there are none.
    """

    label: str
    pictures: int
    top1: float
    top5: float
    precision: float | None


class Bin(msgspec.Struct, frozen=True, kw_only=True):
    """Pictures whose best label scores from `low` to below `high`.

    `score` is the mean score of that label and `right` the share that is right; None without
    pictures.
    """

    low: float
    high: float
    pictures: int
    score: float | None
    right: float | None


class Calibration(msgspec.Struct, frozen=True):
    """Whether scores of best labels are as high as these are often right.

    `error` is the expected calibration error (Guo et al. 2017, equation 3): the mean distance of
    score and share over bins of equal width, weighted by their pictures.
    """

    error: float
    bins: tuple[Bin, ...]


class Confusion(msgspec.Struct, frozen=True):
    """How often the best label is `tag`, and wrong, where `label` is true."""

    label: str
    tag: str
    pictures: int


class Scored(msgspec.Struct, frozen=True):
    """A label with its score."""

    label: str
    score: float


class Mistake(msgspec.Struct, frozen=True, kw_only=True):
    """A picture whose best label is wrong. `rank` is the place of the best right one, from 1."""

    path: str
    labels: tuple[str, ...]
    tags: tuple[Scored, ...]
    rank: int


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """How right the model is on the pictures that were scored.

    `top1_mean` is the mean over labels, whatever the number of their pictures.
    """

    pictures: int
    top1: float
    top5: float
    top1_mean: float
    at_threshold: AtThreshold
    best_threshold: AtThreshold
    calibration: Calibration
    labels: tuple[LabelFigures, ...]
    confusion: tuple[Confusion, ...]
    mistakes: tuple[Mistake, ...]


def measure(answers: Sequence[Answer], labels: Sequence[str], threshold: float) -> Figures:
    """Return the figures of one answer or more; labels in the order of their numbers."""
    thresholds = Thresholds(answers)
    each = _labels(answers)
    return Figures(
        pictures=len(answers),
        top1=_share(is_hit(one, 1) for one in answers),
        top5=_share(is_hit(one) for one in answers),
        top1_mean=sum(one.top1 for one in each) / len(each),
        at_threshold=thresholds.at(threshold),
        best_threshold=thresholds.best(),
        calibration=calibration(answers),
        labels=each,
        confusion=_confusion(answers, labels),
        mistakes=tuple(_mistake(one, labels) for one in worst(answers)),
    )


def is_hit(answer: Answer, places: int | None = None) -> bool:
    """Whether one of the best labels is right."""
    return not answer.right.isdisjoint(answer.best_T[:places])


def worst(answers: Sequence[Answer]) -> list[Answer]:
    """Return the answers that are wrong, those first that lie farthest above what is right."""
    wrong = [one for one in answers if not is_hit(one, 1)]
    return sorted(wrong, key=lambda one: (-_excess(one), one.case.sample.path))[:MOST_MISTAKES]


def calibration(answers: Sequence[Answer]) -> Calibration:
    """Return how the best labels' scores agree with how often they are right."""
    groups: list[list[Answer]] = [[] for _ in range(BINS)]
    for one in answers:
        groups[min(int(_top_score(one) * BINS), BINS - 1)].append(one)
    bins = tuple(_bin(number, some) for number, some in enumerate(groups))
    far = sum(
        one.pictures * abs(one.right - one.score)
        for one in bins
        if one.right is not None and one.score is not None
    )
    return Calibration(far / len(answers), bins)


def _bin(number: int, answers: Sequence[Answer]) -> Bin:
    return Bin(
        low=number / BINS,
        high=(number + 1) / BINS,
        pictures=len(answers),
        score=sum(map(_top_score, answers)) / len(answers) if answers else None,
        right=_share(is_hit(one, 1) for one in answers) if answers else None,
    )


def _labels(answers: Sequence[Answer]) -> tuple[LabelFigures, ...]:
    """Return the figures of each true label, the worst first."""
    truths: dict[str, Truth] = {}
    shown: dict[str, list[Answer]] = {}
    for one in answers:
        for truth in one.case.truths:
            truths[truth.name] = truth
            shown.setdefault(truth.name, []).append(one)
    by_label: dict[int, list[bool]] = {}
    for one in answers:
        by_label.setdefault(one.best_T[0], []).append(is_hit(one, 1))
    found = [
        _label(truth, shown[name], [hit for row in truth.says for hit in by_label.get(row, ())])
        for name, truth in truths.items()
    ]
    return tuple(sorted(found, key=lambda one: (one.top1, -one.pictures, one.label)))


def _label(truth: Truth, answers: Sequence[Answer], said: Sequence[bool]) -> LabelFigures:
    return LabelFigures(
        label=truth.name,
        pictures=len(answers),
        top1=_share(one.best_T[0] in truth.right for one in answers),
        top5=_share(not truth.right.isdisjoint(one.best_T) for one in answers),
        precision=_share(said) if said else None,
    )


def _confusion(answers: Sequence[Answer], labels: Sequence[str]) -> tuple[Confusion, ...]:
    """Return which labels are taken for which others, the most frequent first."""
    pairs = Counter(
        (truth.name, labels[one.best_T[0]])
        for one in answers
        if not is_hit(one, 1)
        for truth in one.case.truths
    )
    ordered = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
    return tuple(Confusion(label, tag, pictures) for (label, tag), pictures in ordered)


def _mistake(answer: Answer, labels: Sequence[str]) -> Mistake:
    return Mistake(
        path=answer.case.sample.path,
        labels=tuple(truth.name for truth in answer.case.truths),
        tags=tuple(Scored(labels[row], float(answer.scores_K[row])) for row in answer.best_T),
        rank=1 + int((answer.scores_K > _right_score(answer)).sum()),
    )


def _top_score(answer: Answer) -> float:
    return float(answer.scores_K[answer.best_T[0]])


def _right_score(answer: Answer) -> float:
    return float(answer.scores_K[sorted(answer.right)].max())


def _excess(answer: Answer) -> float:
    return _top_score(answer) - _right_score(answer)


def _share(hits: Iterable[bool]) -> float:
    found = list(hits)
    return sum(found) / len(found)
