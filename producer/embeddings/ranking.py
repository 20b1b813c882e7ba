"""Embeddings that were kept -> tags by other labels, or the nearest to a text. Needs numpy alone.

Shapes: N images, K labels, M kinds of them, J background words, D embedding dimensions.
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

from producer.arguments import argument
from producer.embeddings.text_encoder import Embedded
from producer.errors import EncodingError, RecordsError
from worker.contract.i18n import gettext as _
from worker.contract.messages import Record, Tag
from worker.contract.scoring import (
    Background,
    Best,
    Kinds,
    Scale,
    add_kind,
    best,
    score,
    score_kinds,
    tags,
)

if TYPE_CHECKING:
    from worker.contract.text_embeddings import Encoded

# Of float64 in memory at a time: some 30 MB.
_SCORES: Final = 4_000_000
_MOST_ROWS: Final = 8192


class Ranker:
    """Scores images as workers do, by `worker.contract.scoring`."""

    def __init__(self, embedded: Embedded, *, top_k: int) -> None:
        self.encoded: Final[Encoded] = embedded.encoded
        K, J, D = len(embedded.encoded.labels), embedded.encoded.background, embedded.encoded.dim
        numbers = np.frombuffer(embedded.matrix, "<f4")
        M = len(embedded.encoded.kinds)
        sizes = np.cumsum([K * D, J * D, J * K, M * D])
        matrix_KD, matrix_JD, apart_JK, matrix_MD, apart_KM = np.split(numbers, sizes)
        self._matrix_KD = matrix_KD.reshape(K, D)
        self._background = (
            Background(matrix_JD.reshape(J, D), apart_JK.reshape(J, K)) if J else None
        )
        self._kinds = Kinds(
            embedded.encoded.kinds, matrix_MD.reshape(M, D), apart_KM.reshape(K if M else 0, M)
        )
        self._top_k = top_k
        self.names: Final = embedded.encoded.labels + embedded.encoded.kinds
        self.rows: Final = max(1, min(_MOST_ROWS, _SCORES // (K + J)))

    def rank(self, embeddings_ND: npt.NDArray[np.float16]) -> Best:
        """Return the best of `names` of each image. Equal scores stand in their order."""
        floats_ND, kinds = embeddings_ND.astype(np.float32), self._kinds
        scale = Scale(self.encoded.logit_scale, self.encoded.logit_bias)
        found = best(score(floats_ND, self._matrix_KD, scale, self._background), self._top_k)
        if not kinds.names:
            return found
        scores_NM = score_kinds(floats_ND, self._matrix_KD, scale, kinds)
        return add_kind(found, scores_NM, kinds, self.encoded.labels, self.encoded.parents)


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
        found = iter(_tags(tagged, ranker, threshold) if tagged else ())
        for record in block:
            if record.error is not None:
                yield record
                continue
            yield msgspec.structs.replace(record, tags=next(found), labels=labels)


def _tags(records: Sequence[Record], ranker: Ranker, threshold: float) -> Sequence[tuple[Tag, ...]]:
    ranking = ranker.rank(matrix_of(records, ranker.encoded))
    return tags(ranking, ranker.names, ranker.encoded.parents, threshold)


def matrix_of(records: Sequence[Record], encoded: Encoded) -> npt.NDArray[np.float16]:
    """Return the embeddings ND of records.

    Raises:
        RecordsError: one has none.
        EncodingError: one is of another model.
    """
    parts = []
    for record in records:
        check_model(record.model, encoded)
        if record.embedding is None:
            msg = _("{path} has no embedding: submit with {embeddings}").format(
                path=record.path, embeddings=argument("embeddings")
            )
            raise RecordsError(msg)
        parts.append(base64.b64decode(record.embedding))
    return as_matrix(b"".join(parts), encoded)


def as_matrix(body: bytes | memoryview, encoded: Encoded) -> npt.NDArray[np.float16]:
    """Return float16, little-endian, row by row, as a matrix ND."""
    return np.frombuffer(body, "<f2").reshape(-1, encoded.dim)


def check_model(model: str, encoded: Encoded) -> None:
    """Make sure that embeddings and labels are of the same model.

    Raises:
        EncodingError: they are not.
    """
    if model != encoded.model:
        msg = _(
            "the embeddings are of model {model}, the labels of {other}: give that model "
            "({argument})"
        ).format(model=model, other=encoded.model, argument=argument("model"))
        raise EncodingError(msg)


class Hit(NamedTuple):
    """An image near a text, by the cosine of the two."""

    score: float
    path: str


def nearest(
    blocks: Iterable[tuple[Sequence[str], npt.NDArray[np.float16]]], embedded: Embedded, top: int
) -> list[Hit]:
    """Return the images of all blocks whose embeddings are nearest to the first text."""
    text_D = np.frombuffer(embedded.matrix, "<f4")[: embedded.encoded.dim]
    best: list[Hit] = []
    for paths, embeddings_ND in blocks:
        scores_N = embeddings_ND.astype(np.float32) @ text_D
        order = np.argpartition(scores_N, -top)[-top:] if top < len(scores_N) else range(len(paths))
        hits = [Hit(float(scores_N[n]), str(paths[n])) for n in order]
        best = heapq.nlargest(top, [*best, *hits])
    return best
