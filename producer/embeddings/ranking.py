"""Embeddings that were kept -> tags by other labels, or the nearest to a text. Needs numpy alone.

Shapes: N images, K labels, J background words, D embedding dimensions, T tags an image.
"""

from __future__ import annotations

import base64
import heapq
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from producer.embeddings.text_encoder import Embedded, EncodingError
from producer.formats.jsonl import RecordsError
from worker.contract.i18n import gettext as _
from worker.contract.messages import Record, Tag

if TYPE_CHECKING:
    from worker.contract.text_embeddings import Encoded

Floats = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float32]
# Of float64 in memory at a time: some 30 MB.
_SCORES: Final = 4_000_000
_MOST_ROWS: Final = 8192


class Ranking(NamedTuple):
    """The best labels of N images: which, NT, and their scores, NT, the best first."""

    order_NT: npt.NDArray[np.intp]
    scores_NT: Floats


class Ranker:
    """Scores images as `worker.pipeline.rank` does.

    Softmax over the set of `logit_scale` x cosine; or over a label and the background alone.
    """

    def __init__(self, embedded: Embedded, *, top_k: int) -> None:
        self.told: Final[Encoded] = embedded.told
        K, J, D = len(embedded.told.labels), embedded.told.background, embedded.told.dim
        numbers = np.frombuffer(embedded.matrix, "<f4")
        ends = np.cumsum([K * D, J * D])
        matrix_KD, matrix_JD, apart_JK = np.split(numbers, ends)
        self._matrix_DK = np.ascontiguousarray(matrix_KD.reshape(K, D).T)
        self._matrix_DJ = np.ascontiguousarray(matrix_JD.reshape(J, D).T)
        self._apart_JK = apart_JK.reshape(J, K) if J else None
        self._top_k = min(top_k, K)
        self.rows: Final = max(1, min(_MOST_ROWS, _SCORES // (K + J)))

    def rank(self, embeddings_ND: npt.NDArray[np.float16]) -> Ranking:
        """Return the best labels of each image. Equal scores stand in the labels' order."""
        floats_ND = embeddings_ND.astype(np.float32)
        scores_NK = self._logits(floats_ND, self._matrix_DK)
        greatest_N1 = scores_NK.max(axis=1, keepdims=True)
        if self._apart_JK is None:
            # The greatest of a row is taken off first: exp never overflows.
            np.exp(scores_NK - greatest_N1, out=scores_NK)
            total_N1 = scores_NK.sum(axis=1, keepdims=True)
            np.divide(scores_NK, total_N1, out=scores_NK)
        else:
            logits_NJ = self._logits(floats_ND, self._matrix_DJ)
            greatest_N1 = np.maximum(greatest_N1, logits_NJ.max(axis=1, keepdims=True))
            np.exp(scores_NK - greatest_N1, out=scores_NK)
            total_NK = scores_NK + np.exp(logits_NJ - greatest_N1) @ self._apart_JK
            # Far below the greatest neither is a number any more: it is none of these.
            np.divide(scores_NK, total_NK, out=scores_NK, where=total_NK > 0)
        best_NT = self._best(scores_NK)
        found_NT = np.take_along_axis(scores_NK, best_NT, axis=1)
        order_NT = np.argsort(-found_NT, axis=1, kind="stable")
        return Ranking(
            np.take_along_axis(best_NT, order_NT, axis=1),
            np.take_along_axis(found_NT, order_NT, axis=1),
        )

    def _logits(self, floats_ND: npt.NDArray[np.float32], matrix: Matrix) -> Floats:
        return (floats_ND @ matrix).astype(np.float64) * self.told.logit_scale

    def _best(self, scores_NK: Floats) -> npt.NDArray[np.intp]:
        """Return the labels of the highest scores of each row, in the labels' order."""
        if self._top_k == scores_NK.shape[1]:
            return np.tile(np.arange(self._top_k), (len(scores_NK), 1))
        parted_NK = np.argpartition(scores_NK, -self._top_k, axis=1)
        best_NT = np.sort(parted_NK[:, -self._top_k :], axis=1)
        # Of those that tie with the last one in, partitioning chooses any: here it is the first.
        last_N1 = np.take_along_axis(scores_NK, parted_NK[:, [-self._top_k]], axis=1)
        tied_N = np.count_nonzero(scores_NK >= last_N1, axis=1) > self._top_k
        if tied_N.any():
            ordered = np.argsort(-scores_NK[tied_N], axis=1, kind="stable")
            best_NT[tied_N] = np.sort(ordered[:, : self._top_k], axis=1)
        return best_NT


def retagged(
    records: Iterator[Record], ranker: Ranker, labels: str | None, threshold: float
) -> Iterator[Record]:
    """Yield the records with tags by other labels; failures as they are.

    `labels` is the hash of those labels.

    Raises:
        RecordsError: one has no embedding.
        EncodingError: one is of another model.
    """
    while block := list(islice(records, ranker.rows)):
        tagged = [one for one in block if one.error is None]
        tags = iter(_tags(matrix_of(tagged, ranker.told), ranker, threshold) if tagged else ())
        for record in block:
            if record.error is not None:
                yield record
                continue
            yield msgspec.structs.replace(record, tags=next(tags), labels=labels)


def _tags(
    embeddings_ND: npt.NDArray[np.float16], ranker: Ranker, threshold: float
) -> Iterator[tuple[Tag, ...]]:
    names, parents = ranker.told.labels, ranker.told.parents
    ranking = ranker.rank(embeddings_ND)
    rows = zip(ranking.order_NT.tolist(), ranking.scores_NT.tolist(), strict=True)
    for order, scores in rows:
        yield tuple(
            Tag(label=names[k], score=score, parent=parents.get(names[k]))
            for k, score in zip(order, scores, strict=True)
            if score >= threshold
        )


def matrix_of(records: Sequence[Record], told: Encoded) -> npt.NDArray[np.float16]:
    """Return the embeddings ND of records.

    Raises:
        RecordsError: one has none.
        EncodingError: one is of another model.
    """
    parts = []
    for record in records:
        check_model(record.model, told)
        if record.embedding is None:
            msg = _("{path} has no embedding: submit with --embeddings").format(path=record.path)
            raise RecordsError(msg)
        parts.append(base64.b64decode(record.embedding))
    return as_matrix(b"".join(parts), told)


def as_matrix(body: bytes | memoryview, told: Encoded) -> npt.NDArray[np.float16]:
    """Return float16, little-endian, row by row, as a matrix ND."""
    return np.frombuffer(body, "<f2").reshape(-1, told.dim)


def check_model(model: str, told: Encoded) -> None:
    """Make sure that embeddings and labels are of the same model.

    Raises:
        EncodingError: they are not.
    """
    if model != told.model:
        msg = _(
            "the embeddings are of model {model}, the labels of {other}: give --model {model}"
        ).format(model=model, other=told.model)
        raise EncodingError(msg)


class Hit(NamedTuple):
    """An image near a text, by the cosine of the two."""

    score: float
    path: str


def nearest(
    blocks: Iterable[tuple[Sequence[str], npt.NDArray[np.float16]]], embedded: Embedded, top: int
) -> list[Hit]:
    """Return the images of all blocks whose embeddings are nearest to the first text."""
    text_D = np.frombuffer(embedded.matrix, "<f4")[: embedded.told.dim]
    best: list[Hit] = []
    for paths, embeddings_ND in blocks:
        scores_N = embeddings_ND.astype(np.float32) @ text_D
        order = np.argpartition(scores_N, -top)[-top:] if top < len(scores_N) else range(len(paths))
        hits = [Hit(float(scores_N[n]), str(paths[n])) for n in order]
        best = heapq.nlargest(top, [*best, *hits])
    return best
