"""Embeddings of images + a label set -> tags, best first.

Shapes: N images, D embedding dimensions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from worker.contract.messages import Tag
from worker.contract.scoring import Scale, add_kind, best, score, score_kinds, tags

if TYPE_CHECKING:
    from worker.labels.label_sets import LabelSet


def rank(
    embeddings_ND: npt.NDArray[np.float32],
    label_set: LabelSet,
    scale: Scale,
    *,
    top_k: int,
    threshold: float,
) -> list[tuple[Tag, ...]]:
    """Return for each image at most `top_k` tags that score at least `threshold`, best first.

    Behind them stands a kind, if no label is certain and the kind is: see `add_kind`.
    """
    labels, matrix_KD, parents = label_set.labels, label_set.matrix_KD, label_set.parents
    found = best(score(embeddings_ND, matrix_KD, scale, label_set.background), top_k)
    if kinds := label_set.kinds:
        scores_NM = score_kinds(embeddings_ND, matrix_KD, scale, kinds)
        found = add_kind(found, scores_NM, kinds, labels, parents)
        labels += kinds.names
    return tags(found, labels, parents, threshold)
