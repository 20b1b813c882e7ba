"""What `worker texts` says of the matrix that it writes."""

from __future__ import annotations

import msgspec


class Encoded(msgspec.Struct, frozen=True, kw_only=True):
    """Labels as a model embeds them, K rows of `dim` float32, unit vectors; see `worker.rank`.

    Of a `classifier` the rows pick its logits. `model` is the name that records have.
    """

    model: str
    kind: str
    dim: int
    logit_scale: float
    labels: tuple[str, ...]
    parents: dict[str, str] = {}
