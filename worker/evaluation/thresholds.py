"""Scores and truths -> precision and recall at a threshold, and the threshold that is best.

Shapes: K labels; S scores, in order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from worker.evaluation.answers import Answer, Scores

# Thresholds are rounded as far as that changes no tag.
_MOST_DIGITS: Final = 12


class AtThreshold(msgspec.Struct, frozen=True, kw_only=True):
    """How right tags are that score at least `threshold`, over all pictures together.

    `precision` is the share of the tags that are right, None if there is no tag; `recall` the share
    of the true labels that have a tag; `f1` their harmonic mean.
    """

    threshold: float
    tags: int
    precision: float | None
    recall: float
    f1: float


class Thresholds:
    """Counts tags at any threshold.

    A tag is right if it is among `Answer.right`; a truth is found if any label has a tag that says
    as much.
    """

    def __init__(self, answers: Sequence[Answer]) -> None:
        """Take at least one answer; its scores are copied."""
        self._all_S = np.sort(np.concatenate([one.scores_K for one in answers]))
        right = [one.scores_K[sorted(one.right)] for one in answers]
        self._right_S = np.sort(np.concatenate(right))
        found = [
            one.scores_K[sorted(truth.says)].max() for one in answers for truth in one.case.truths
        ]
        self._found_S = np.sort(np.array(found))

    def at(self, threshold: float) -> AtThreshold:
        """Return the figures at a threshold."""
        tags, precision, recall, f1 = self._figures(np.array([threshold]))
        return AtThreshold(
            threshold=threshold,
            tags=int(tags[0]),
            precision=float(precision[0]) if tags[0] else None,
            recall=float(recall[0]),
            f1=float(f1[0]),
        )

    def best(self) -> AtThreshold:
        """Return the figures where F1 is greatest; of several such thresholds, at the highest.

        It lies at a score of a right tag: what a lower one adds is wrong.
        """
        candidates_S = np.unique(np.concatenate([self._right_S, self._found_S]))
        # Below are those without a tag.
        candidates_S = candidates_S[candidates_S >= 0]
        f1_S = self._figures(candidates_S)[3]
        highest = len(f1_S) - 1 - int(f1_S[::-1].argmax())
        return self.at(self._rounded(float(candidates_S[highest])))

    def _figures(self, thresholds_S: Scores) -> tuple[npt.NDArray[np.intp], Scores, Scores, Scores]:
        """Return tags, precision, recall and F1 at each threshold."""
        tags_S = _at_least(self._all_S, thresholds_S)
        right_S = _at_least(self._right_S, thresholds_S)
        recall_S = _at_least(self._found_S, thresholds_S) / len(self._found_S)
        precision_S = right_S / np.maximum(tags_S, 1)
        both_S = precision_S + recall_S
        f1_S = 2 * precision_S * recall_S / np.where(both_S > 0, both_S, 1)
        return tags_S, precision_S, recall_S, f1_S

    def _rounded(self, threshold: float) -> float:
        """Return the shortest number that lets the same tags pass."""
        below = int(np.searchsorted(self._all_S, threshold))
        lower = float(self._all_S[below - 1]) if below else -1.0
        for digits in range(2, _MOST_DIGITS):
            scale = 10.0**digits
            rounded = math.floor(threshold * scale) / scale
            if lower < rounded <= threshold:
                return rounded
        return threshold


def _at_least(scores_S: Scores, thresholds_S: Scores) -> npt.NDArray[np.intp]:
    """Return how many scores, which are in order, pass each threshold."""
    return len(scores_S) - np.searchsorted(scores_S, thresholds_S)
