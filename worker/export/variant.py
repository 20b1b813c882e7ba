"""A rewritten image tower -> the same in a precision, and who judges it.

Shapes: N images, C channels, H x W pixels, D embedding dimensions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from worker.engines.base import Engine
from worker.export.judgement import Judge
from worker.export.tracing import TracedTower
from worker.model.precision import Precision, convert, to_int8
from worker.model.sample import Sample, batches_of


class Jury(NamedTuple):
    """Pictures, what the model itself makes of them, and how near is near enough."""

    sample: Sample
    judge: Judge
    accepted: float

    def first(self, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return some pictures NCHW on the device, and the model's own rows ND of them.

        Fewer pictures than that are repeated.
        """
        places = torch.arange(count) % len(self.sample.judged_by)
        return self.sample.judged_by[places].to(device), self.judge.wanted_ND[places]


class Variant(NamedTuple):
    """A tower in a precision; below float32 with a jury, and the layers that stayed in floats."""

    tower: Any
    precision: Precision
    jury: Jury | None = None
    in_floats: tuple[str, ...] = ()

    def judged(self, found: TracedTower, engine: Engine) -> TracedTower:
        """Return what was found of the tower's file, with what the jury says of an engine on it."""
        if self.jury is None:
            return found
        batches = batches_of(self.jury.sample.judged_by)
        rows_ND = torch.cat([engine.embed(batch).to("cpu", torch.float32) for batch in batches])
        return found._replace(
            judgement=self.jury.judge.judge(rows_ND),
            accepted=self.jury.accepted,
            in_floats=self.in_floats,
        )


def variant(
    rewritten: Any, precision: Precision, device: torch.device, jury: Jury | None
) -> Variant:
    """Return the tower in a precision; int8 needs a jury, whose pictures calibrate it."""
    if precision == "int8" and jury is not None:
        made = to_int8(rewritten, jury.sample.calibrated_on, jury.accepted)
        return Variant(made.tower, precision, jury, made.in_floats)
    judge = None if precision == "fp32" else jury
    return Variant(convert(rewritten, precision, device), precision, judge)
