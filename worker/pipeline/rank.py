"""Embeddings + label matrix -> tags, best first.

Shapes: N images, K labels, J background words, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from worker.contract.messages import Tag

if TYPE_CHECKING:
    from worker.labels.encoder import LabelSet

Floats = npt.NDArray[np.float64]
# Up to so many labels all rows are sorted at once; beyond, each by its best alone.
_SORTED_WHOLE: Final = 128


def rank(
    embeddings_ND: npt.NDArray[np.float32],
    label_set: LabelSet,
    logit_scale: float,
    *,
    top_k: int,
    threshold: float,
) -> list[tuple[Tag, ...]]:
    """Return for each image at most `top_k` tags that score at least `threshold`, best first.

    A score is the label's share of the softmax over the whole set of `logit_scale` x cosine (CLIP,
    Radford et al. 2021, section 3.1.2); both sides are unit vectors. Equal scores stand in the
    order of the labels. Of a classifier the embedding is its logits, and the matrix picks them.
    With a background each label has a score of its own; see `shares`.
    """
    # All images at once: a large matrix is read from memory once, not once for each.
    logits_NK = (logit_scale * (embeddings_ND @ label_set.matrix_KD.T)).astype(np.float64)
    if label_set.background is None:
        scores_NK = softmax(logits_NK)
    else:
        matrix_JD, apart_JK = label_set.background
        logits_NJ = (logit_scale * (embeddings_ND @ matrix_JD.T)).astype(np.float64)
        scores_NK = shares(logits_NK, logits_NJ, apart_JK)
    names, parents = label_set.labels, label_set.parents
    return [
        tuple(
            Tag(label=names[k], score=score, parent=parents.get(names[k]))
            for k, score in best
            if score >= threshold
        )
        for best in _best(scores_NK, top_k)
    ]


def softmax(logits_NK: Floats) -> Floats:
    """Return shares of which each row sums to 1.

    The greatest logit of a row is taken off first: exp never overflows.
    """
    weights_NK = np.exp(logits_NK - logits_NK.max(axis=-1, keepdims=True))
    shares_NK: Floats = weights_NK / weights_NK.sum(axis=-1, keepdims=True)
    return shares_NK


def shares(logits_NK: Floats, logits_NJ: Floats, apart_JK: npt.NDArray[np.float32]) -> Floats:
    """Return for each label its share of the softmax over itself and the background alone.

    Above 0.5 it says more of the image than all words together that mean something else. So a
    threshold means the same for every label and every set, several labels may pass it, or none.
    (The odds of NegLabel, Jiang et al. 2024, equation 3, for one label at a time.)
    """
    greatest_N1 = np.maximum(
        logits_NK.max(axis=-1, keepdims=True), logits_NJ.max(axis=-1, keepdims=True)
    )
    weights_NK = np.exp(logits_NK - greatest_N1)
    others_NK = np.exp(logits_NJ - greatest_N1) @ apart_JK.astype(np.float64)
    # Both may be too small for a number, far below the greatest: then it is none of these.
    total_NK = weights_NK + others_NK
    found_NK: Floats = np.divide(
        weights_NK, total_NK, out=np.zeros_like(weights_NK), where=total_NK > 0
    )
    return found_NK


def _best(scores_NK: Floats, top_k: int) -> Iterator[list[tuple[int, float]]]:
    """Yield of each row the `top_k` best, index and score, in order; ties by index."""
    if scores_NK.shape[1] <= _SORTED_WHOLE:
        order_NK = np.argsort(-scores_NK, axis=1, kind="stable")[:, :top_k]
        best_NK = np.take_along_axis(scores_NK, order_NK, axis=1)
        for order, best in zip(order_NK.tolist(), best_NK.tolist(), strict=True):
            yield list(zip(order, best, strict=True))
        return
    for scores_K in scores_NK:
        order_K = _best_of_many(scores_K, top_k)
        yield list(zip(order_K.tolist(), scores_K[order_K].tolist(), strict=True))


def _best_of_many(scores_K: Floats, top_k: int) -> npt.NDArray[np.intp]:
    candidates: npt.NDArray[np.intp] = np.arange(len(scores_K))
    if top_k < len(scores_K):
        # A full sort of a large set costs more than all the rest of ranking. All that tie with the
        # last one in stay candidates, or partitioning would choose among them at random.
        last_in = np.partition(scores_K, -top_k)[-top_k]
        candidates = np.flatnonzero(scores_K >= last_in)
    order = np.argsort(-scores_K[candidates], kind="stable")
    return candidates[order][:top_k]
