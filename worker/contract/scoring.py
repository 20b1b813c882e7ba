"""Embeddings + label matrix -> scores -> tags, best first: for workers and for kept embeddings.

numpy is imported when something is scored, not before: producers import this package without it.

Shapes: N images, K labels, M kinds of them, J background words, D embedding dimensions, T tags per
image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from worker.contract.ancestors import ancestors_of
from worker.contract.messages import CERTAIN, Tag

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Matrix = npt.NDArray[np.float32]

# Up to so many labels a row is sorted whole; a full sort of more costs more than all the rest.
_SORTED_WHOLE: Final = 128
# Below every threshold.
_NO_TAG: Final = -1.0
# Scores that are ordered at a time: they stay in the processor's cache.
_ORDERED_TOGETHER: Final = 65_536


class Background(NamedTuple):
    """Words for all else that images may show, and which of them mean something else than a label.

    `apart_JK` is 1 where word j does not mean the same as label k, else 0.
    """

    matrix_JD: Matrix
    apart_JK: Matrix


class Kinds(NamedTuple):
    """What stands above the labels of a set, maybe a label itself; it is scored against the labels.

    `apart_KM` is 1 where label k is not of kind m, else 0.
    """

    names: tuple[str, ...]
    matrix_MD: Matrix
    apart_KM: Matrix


class Best(NamedTuple):
    """The best labels of N images: which, NT, and their scores, NT, best first."""

    order_NT: npt.NDArray[np.intp]
    scores_NT: Floats


class Scale(NamedTuple):
    """What a model makes of a cosine: `factor` x cosine is a logit, to which `bias` is added.

    With a bias, each label is scored by itself.
    """

    factor: float
    bias: float | None = None


def score(
    embeddings_ND: Matrix, matrix_KD: Matrix, scale: Scale, background: Background | None
) -> Floats:
    """Return the scores NK of each label for each image, 0 to 1.

    A score is the label's share of the softmax over the whole set of the logits (CLIP, Radford et
    al. 2021, section 3.1.2); both sides are unit vectors. Of a classifier the embedding is its
    logits, and the matrix picks them. With a bias a score is the sigmoid of the label's own logit
    (SigLIP, Zhai et al. 2023). With a background each label has a score of its own; see `shares`.
    """
    logits_NK = _logits(embeddings_ND, matrix_KD, scale.factor)
    if background is not None:
        logits_NJ = _logits(embeddings_ND, background.matrix_JD, scale.factor)
        return shares(logits_NK, logits_NJ, background.apart_JK)
    return softmax(logits_NK) if scale.bias is None else sigmoid(logits_NK, scale.bias)


def _logits(embeddings_ND: Matrix, matrix: Matrix, logit_scale: float) -> Floats:
    # All images at once: a large matrix is read from memory once, not once for each.
    logits: Floats = (logit_scale * (embeddings_ND @ matrix.T)).astype("f8")
    return logits


def softmax(logits_NK: Floats) -> Floats:
    """Return shares of which each row sums to 1; they take the place of the logits.

    The greatest logit of a row is taken off first: exp never overflows.
    """
    import numpy as np  # noqa: PLC0415

    logits_NK -= logits_NK.max(axis=-1, keepdims=True)
    np.exp(logits_NK, out=logits_NK)
    logits_NK /= logits_NK.sum(axis=-1, keepdims=True)
    return logits_NK


def sigmoid(logits_NK: Floats, bias: float) -> Floats:
    """Return 1 / (1 + exp(-(logit + bias))) of each; they take the place of the logits."""
    import numpy as np  # noqa: PLC0415

    logits_NK += bias
    logits_NK *= 0.5
    # The same function, without an exp that could overflow.
    np.tanh(logits_NK, out=logits_NK)
    logits_NK += 1
    logits_NK *= 0.5
    return logits_NK


def shares(logits_NK: Floats, logits_NJ: Floats, apart_JK: Matrix) -> Floats:
    """Return for each label its share of the softmax over itself and the background alone.

    Above 0.5 the label says more of the image than all the background together. So
    a threshold means the same for every label and every set, and several labels may pass it, or
    none. (The odds of NegLabel, Jiang et al. 2024, equation 3, for one label at a time.) The shares
    take the place of the logits.
    """
    import numpy as np  # noqa: PLC0415

    greatest_N1 = np.maximum(
        logits_NK.max(axis=-1, keepdims=True), logits_NJ.max(axis=-1, keepdims=True)
    )
    np.exp(logits_NK - greatest_N1, out=logits_NK)
    np.exp(logits_NJ - greatest_N1, out=logits_NJ)
    total_NK = logits_NK + logits_NJ @ apart_JK.astype("f8")
    # Both may be too small for a number, far below the greatest: then it is none of these.
    np.divide(logits_NK, total_NK, out=logits_NK, where=total_NK > 0)
    return logits_NK


def best(scores_NK: Floats, top_k: int) -> Best:
    """Return the `top_k` best labels of each image; equal scores stand in the labels' order."""
    import numpy as np  # noqa: PLC0415

    images, labels = scores_NK.shape
    rows = max(1, _ORDERED_TOGETHER // labels)
    parts = [
        _best(scores_NK[start : start + rows], min(top_k, labels))
        for start in range(0, images, rows)
    ]
    if len(parts) == 1:
        return parts[0]
    return Best(
        np.concatenate([part.order_NT for part in parts]),
        np.concatenate([part.scores_NT for part in parts]),
    )


def _best(scores_NK: Floats, top_k: int) -> Best:
    import numpy as np  # noqa: PLC0415

    if scores_NK.shape[1] <= _SORTED_WHOLE:
        order_NT = np.argsort(-scores_NK, axis=1, kind="stable")[:, :top_k]
        return Best(order_NT, np.take_along_axis(scores_NK, order_NT, axis=1))
    candidates_NT = _candidates(scores_NK, top_k)
    found_NT = np.take_along_axis(scores_NK, candidates_NT, axis=1)
    order_NT = np.argsort(-found_NT, axis=1, kind="stable")
    return Best(
        np.take_along_axis(candidates_NT, order_NT, axis=1),
        np.take_along_axis(found_NT, order_NT, axis=1),
    )


def _candidates(scores_NK: Floats, top_k: int) -> npt.NDArray[np.intp]:
    """Return the labels of the highest scores of each row, in the labels' order."""
    import numpy as np  # noqa: PLC0415

    images, labels = scores_NK.shape
    if top_k == labels:
        return np.tile(np.arange(labels), (images, 1))
    parted_NK = np.argpartition(scores_NK, -top_k, axis=1)
    best_NT = np.sort(parted_NK[:, -top_k:], axis=1)
    # Of labels that tie with the last one in, partitioning chooses any: here it is the first.
    last_N1 = np.take_along_axis(scores_NK, parted_NK[:, [-top_k]], axis=1)
    tied_N = np.count_nonzero(scores_NK >= last_N1, axis=1) > top_k
    if tied_N.any():
        ordered = np.argsort(-scores_NK[tied_N], axis=1, kind="stable")
        best_NT[tied_N] = np.sort(ordered[:, :top_k], axis=1)
    return best_NT


def score_kinds(embeddings_ND: Matrix, matrix_KD: Matrix, scale: Scale, kinds: Kinds) -> Floats:
    """Return the scores NM of each kind for each image: against all labels that are not of it."""
    return score(embeddings_ND, kinds.matrix_MD, scale, Background(matrix_KD, kinds.apart_KM))


def add_kind(
    found: Best, scores_NM: Floats, kinds: Kinds, labels: Sequence[str], parents: Mapping[str, str]
) -> Best:
    """Return the same with one tag more, the last, which stands for a kind, as number K + m.

    Of an image without a certain label it is the kind that is certain, the lowest if one stands
    above another. An animal is better than nothing, and nothing beside a cat. If a label of that
    name is among the best, it has the kind's score instead. The last tag scores below 0 if it is
    none.
    """
    import numpy as np  # noqa: PLC0415

    places = {name: m for m, name in enumerate(kinds.names)}
    below_MM = np.zeros((len(places), len(places)), np.float32)
    for name, m in places.items():
        if (above := places.get(parents.get(name, ""))) is not None:
            below_MM[m, above] = 1
    certain_NM = scores_NM >= CERTAIN
    certain_NM &= found.scores_NT[:, :1] < CERTAIN
    certain_NM &= certain_NM @ below_MM == 0
    kept_NM = np.where(certain_NM, scores_NM, _NO_TAG)
    kind_N1 = kept_NM.argmax(axis=1)[:, np.newaxis]
    score_N1 = np.take_along_axis(kept_NM, kind_N1, axis=1)
    numbers = {name: k for k, name in enumerate(labels)}
    label_M = np.array([numbers.get(name, -1) for name in kinds.names])
    twice_NT = (found.order_NT == label_M[kind_N1]) & (score_N1 >= 0)
    scores_NT = np.where(twice_NT, score_N1, found.scores_NT)
    score_N1[twice_NT.any(axis=1)] = _NO_TAG
    return Best(
        np.concatenate([found.order_NT, len(labels) + kind_N1], axis=1),
        np.concatenate([scores_NT, score_N1], axis=1),
    )


def tags(
    found: Best, labels: Sequence[str], parents: Mapping[str, str], threshold: float
) -> list[tuple[Tag, ...]]:
    """Return for each image the tags of its best labels that score at least `threshold`."""
    rows = zip(found.order_NT.tolist(), found.scores_NT.tolist(), strict=True)
    return [
        tuple(
            Tag.below(ancestors_of(labels[k], parents), labels[k], score)
            for k, score in zip(order, scores, strict=True)
            if score >= threshold
        )
        for order, scores in rows
    ]
