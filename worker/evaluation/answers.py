"""Pictures -> what the worker's own pipeline answers: the score of each label, or a failure.

Labels are what a worker may tag with: those of the set, and behind them the kinds of them that
stand where no label is certain.

Shapes: K labels, T best labels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from worker.contract.labels import LabelPack
from worker.contract.messages import Chunk, Failure, ImageRef, ImageResult
from worker.contract.urls import is_url
from worker.evaluation.samples import Sample
from worker.evaluation.truth import Truth
from worker.labels.label_sets import LabelSet
from worker.pipeline.pipeline import Pipeline

BEST: Final = 5
_CHUNK_IMAGES: Final = 64
_JOB: Final = "evaluate"
_NO_TAG: Final = -1.0
Scores = npt.NDArray[np.float64]


class Case(NamedTuple):
    """A picture to score, with what it shows: one truth at least."""

    sample: Sample
    truths: tuple[Truth, ...]


class Answer(NamedTuple):
    """What the model says of a picture: its best labels by number, best first, and all scores.

    What has no tag, as a kind that is not certain, scores below 0. There is a thumbnail, a JPEG in
    base64, if the best label is wrong and one was asked for.
    """

    case: Case
    best_T: tuple[int, ...]
    scores_K: Scores
    thumbnail: str | None = None

    @property
    def right(self) -> frozenset[int]:
        """The labels that are right."""
        return frozenset().union(*(truth.right for truth in self.case.truths))


class Unread(msgspec.Struct, frozen=True):
    """A picture that has no tags, and why."""

    path: str
    code: str
    message: str


class Answers(NamedTuple):
    """What became of the pictures."""

    scored: list[Answer]
    failed: list[Unread]


def tag_names(label_set: LabelSet) -> tuple[str, ...]:
    """Return the names that a tag may have, each once: the labels in their order, then kinds."""
    kinds = label_set.kinds.names if label_set.kinds else ()
    return tuple(dict.fromkeys((*label_set.labels, *kinds)))


def ask(
    pipeline: Pipeline,
    cases: Sequence[Case],
    pack: LabelPack,
    thumbnail_px: int,
    on_progress: Callable[[int], None],
) -> Answers:
    """Let a started pipeline score all labels of each picture, as it does for a worker.

    All scores are held: 8 bytes for each picture and label. `on_progress` is called with the number
    of pictures that are done.

    Raises:
        TaggerError: the labels cannot be used, or the pipeline has ended.
    """
    label_set = pipeline.label_set(pack)
    names = tag_names(label_set)
    found = Answers([], [])
    for number, some in enumerate(_chunks(cases)):
        refs = tuple(ImageRef(_place(case.sample.path)) for case in some)
        # The set was encoded above, so no store is asked for it.
        chunk = Chunk(
            job=_JOB,
            seq=number,
            images=refs,
            labels=pack.hash,
            top_k=len(label_set.labels),
            thumbnail_px=thumbnail_px,
            sent_at_s=time.time(),
        )
        results = pipeline.process(chunk, time.time()).images
        for case, result in zip(some, results, strict=True):
            sort(found, case, result, names)
        on_progress(len(found.scored) + len(found.failed))
    return found


def sort(found: Answers, case: Case, result: ImageResult, names: Sequence[str]) -> None:
    """Put a result where it belongs; labels are numbered as `names` has them."""
    if result.error is not None:
        found.failed.append(_unread(case.sample.path, result.error))
        return
    # A kind stands behind the labels, or in the place of one of its name, whatever it scores.
    tags = sorted(result.tags, key=lambda tag: -tag.score)
    rows = {name: row for row, name in enumerate(names)}
    order_K = [rows[tag.label] for tag in tags]
    scores_K = np.full(len(names), _NO_TAG)
    scores_K[order_K] = [tag.score for tag in tags]
    answer = Answer(case, tuple(order_K[:BEST]), scores_K, result.thumbnail)
    if answer.best_T[0] in answer.right:
        answer = answer._replace(thumbnail=None)
    found.scored.append(answer)


def _unread(path: str, failure: Failure) -> Unread:
    return Unread(path, failure.code, failure.message)


def _chunks(cases: Sequence[Case]) -> Iterator[Sequence[Case]]:
    for start in range(0, len(cases), _CHUNK_IMAGES):
        yield cases[start : start + _CHUNK_IMAGES]


def _place(path: str) -> str:
    return path if is_url(path) else str(Path(path).absolute())
