"""Embeddings + label matrix -> tags, best first.

Shapes: N images, K labels, D embedding dimensions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from worker.contract.messages import Tag

if TYPE_CHECKING:
    from worker.models.labels import LabelSet

Floats = npt.NDArray[np.float64]


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
    """
    # All images at once: a large matrix is read from memory once, not once for each.
    logits_NK = logit_scale * (embeddings_ND @ label_set.matrix_KD.T)
    return [_tags(logits_K, label_set, top_k, threshold) for logits_K in logits_NK]


def _tags(
    logits_K: npt.NDArray[np.float32], label_set: LabelSet, top_k: int, threshold: float
) -> tuple[Tag, ...]:
    scores_K = softmax(logits_K.astype(np.float64))
    names = [(int(k), label_set.labels[k]) for k in _best(scores_K, top_k)]
    return tuple(
        Tag(label=name, score=float(scores_K[k]), parent=label_set.parents.get(name))
        for k, name in names
        if scores_K[k] >= threshold
    )


def softmax(logits_K: Floats) -> Floats:
    """Return shares that sum to 1. The greatest logit is taken off first: exp never overflows."""
    weights_K = np.exp(logits_K - logits_K.max())
    shares_K: Floats = weights_K / weights_K.sum()
    return shares_K


def _best(scores_K: Floats, top_k: int) -> npt.NDArray[np.intp]:
    """Return the indices of the `top_k` best, in order; ties by index."""
    candidates: npt.NDArray[np.intp] = np.arange(len(scores_K))
    if top_k < len(scores_K):
        # A full sort of a large set costs more than all the rest of ranking. All that tie with the
        # last one in stay candidates, or partitioning would choose among them at random.
        last_in = np.partition(scores_K, -top_k)[-top_k]
        candidates = np.flatnonzero(scores_K >= last_in)
    order = np.argsort(-scores_K[candidates], kind="stable")
    return candidates[order][:top_k]
