"""The description that `worker texts` writes before its matrices."""

from __future__ import annotations

from typing import Final

import msgspec

# The remote control command that asks a worker for the embeddings of a few texts.
ENCODE: Final = "encode_texts"
MOST_TEXTS: Final = 16


class Encoded(msgspec.Struct, frozen=True, kw_only=True):
    """Labels as a model embeds them, K rows of `dim` float32, unit vectors.

    Of a `classifier` the rows pick its logits. `model` is the name that records have. If they are
    calibrated, J = `background` rows of the same kind follow, and a matrix JK: see `scoring`.
    Behind them are MD and KM of the `kinds`, if the labels have any.
    """

    model: str
    kind: str
    dim: int
    logit_scale: float
    logit_bias: float | None = None
    labels: tuple[str, ...]
    parents: dict[str, str] = {}
    background: int = 0
    kinds: tuple[str, ...] = ()
