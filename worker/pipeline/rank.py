"""Embeddings of images + a label set -> tags, best first.

Shapes: N images, D embedding dimensions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from worker.contract.messages import Tag
from worker.contract.scoring import Scale, best, score, tags

if TYPE_CHECKING:
    from worker.labels.encoder import LabelSet


def rank(
    embeddings_ND: npt.NDArray[np.float32],
    label_set: LabelSet,
    scale: Scale,
    *,
    top_k: int,
    threshold: float,
) -> list[tuple[Tag, ...]]:
    """Return for each image at most `top_k` tags that score at least `threshold`, best first."""
    scores_NK = score(embeddings_ND, label_set.matrix_KD, scale, label_set.background)
    return tags(best(scores_NK, top_k), label_set.labels, label_set.parents, threshold)
