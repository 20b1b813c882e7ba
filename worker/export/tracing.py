"""Module -> TorchScript file, run again from that file and compared with what it should give.

Shapes: N rows, C channels, H x W pixels, D embedding dimensions.
"""

from __future__ import annotations

import time
import warnings
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from worker.contract.i18n import gettext as _
from worker.contract.i18n import gettext_noop as N_
from worker.contract.rounding import figure
from worker.engines.base import Engine
from worker.engines.saving import write
from worker.engines.torchscript import TorchScriptEngine, is_packed, load_module
from worker.errors import ExportError
from worker.export.judgement import Judgement
from worker.model.precision import ACCEPTED, Precision

# Traced at one size and compared at these: a batch size frozen into the graph would show.
BATCHES: Final = (1, 2, 3, 4, 8)
_TRACED_BATCH: Final = 2
# Of float32 alone: how near other precisions must be, `judgement` says.
MIN_COSINE: Final = 0.99999
# Of float32, absolute: of embeddings of length 1, or of a classifier's logits.
MAX_ABS: Final = 1e-3
_SPEED_BATCHES: Final = (1, 4)
_WARM_UPS: Final = 2
_RUNS: Final = 5
# Slow calls vary little: fewer will do.
_MIN_RUNS: Final = 2
_ENOUGH_S: Final = 1.0


class Deviation(NamedTuple):
    """How far rows are from what they should be: the worst cosine, the largest difference."""

    min_cosine: float
    max_abs: float


class TracedTower(NamedTuple):
    """A traced image tower: its file, how well it agrees with the model, and how fast it is.

    Of a precision below float32 the `judgement` counts, and how near it was asked to be; some
    layers of int8 may have stayed `in_floats`.
    """

    file: Path
    precision: Precision
    deviation: Deviation
    dim: int
    ms_by_batch: dict[int, float]
    judgement: Judgement | None = None
    accepted: float = ACCEPTED
    in_floats: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether it may replace the model."""
        cosine, largest = self.deviation
        if self.precision == "fp32":
            return cosine >= MIN_COSINE and largest <= MAX_ABS
        return cosine >= self.accepted and (
            self.judgement is None or self.judgement.agrees(self.accepted)
        )

    def parity(self) -> dict[str, Any]:
        """Return the manifest's entries about agreement."""
        found = {
            "image_min_cosine": self.deviation.min_cosine,
            "image_max_abs": self.deviation.max_abs,
        }
        if self.judgement is not None:
            found |= self.judgement.parity() | {"accepted_cosine": self.accepted}
        return found | ({"in_floats": list(self.in_floats)} if self.in_floats else {})

    def speed(self) -> dict[str, Any]:
        """Return the manifest's entries about speed: milliseconds per batch, by its size."""
        return {f"batch_{size}_ms": float(figure(ms, 2)) for size, ms in self.ms_by_batch.items()}

    def __str__(self) -> str:
        """Return a line for a person."""
        one = _("{size} in {ms} ms")
        parts = (one.format(size=size, ms=figure(ms)) for size, ms in self.ms_by_batch.items())
        times = ", ".join(parts)
        result = "" if self.agrees else _(" - too far from the model")
        if self.in_floats:
            result = (
                _(", layers left in floats: {count}").format(count=len(self.in_floats)) + result
            )
        cosine = _("cosine {cosine:.6f}").format(cosine=self.deviation.min_cosine)
        agreement = cosine if self.judgement is None else str(self.judgement)
        return _("{precision}: {agreement}, images: {times}{result}").format(
            precision=self.precision, agreement=agreement, times=times, result=result
        )


def pixels(count: int, height: int, width: int) -> Tensor:
    """Return synthetic pictures, uint8 NCHW: edges, gradients and noise, and one all black."""
    dice = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 7, 7, generator=dice)
    smooth = F.interpolate(coarse, size=(height, width), mode="bicubic")
    grain = 0.04 * torch.randn(smooth.shape, generator=dice)
    images = ((smooth + grain).clamp(0, 1) * 255).round().to(torch.uint8)
    images[-1] = 0
    return images


def trace_and_measure(
    tower: nn.Module, precision: Precision, images_NCHW: Tensor, reference_ND: Tensor, file: Path
) -> TracedTower:
    """Trace an image tower, compare it with the reference, and time it.

    Raises:
        ExportError: it cannot be traced or run.
    """
    found = trace(tower, (images_NCHW,), reference_ND, file)
    # As a worker runs it: a GPU's graphs are half the time of small batches.
    device = images_NCHW.device
    engine = TorchScriptEngine(load_module(file, device), device, precision)
    on_host_NCHW = images_NCHW.to("cpu")
    times = times_ms(engine, on_host_NCHW)
    return TracedTower(file, precision, found, reference_ND.shape[1], times)


def times_ms(engine: Engine, images_NCHW: Tensor) -> dict[int, float]:
    """Return the median time of a call by the size of its batch."""
    return {size: _time_ms(engine, images_NCHW[:size]) for size in _SPEED_BATCHES}


def trace(
    tower: nn.Module, inputs: tuple[Tensor, ...], reference_ND: Tensor, file: Path
) -> Deviation:
    """Trace, freeze and save a tower; return how far the saved one is from the reference.

    Each of `inputs` and the reference have as many rows as the largest of `BATCHES`.

    Raises:
        ExportError: it cannot be traced or run, or depends on the batch it was traced with.
        OSError: the file cannot be written.
    """
    with torch.no_grad(), warnings.catch_warnings():
        # TorchScript is deprecated upstream and still the fastest to load and run from a file.
        # What tracing warns of, that a branch is frozen, the comparison below would show.
        for kind in (FutureWarning, DeprecationWarning, TracerWarning, UserWarning):
            warnings.simplefilter("ignore", kind)
        try:
            example = tuple(rows[:_TRACED_BATCH] for rows in inputs)
            traced = torch.jit.trace(tower.eval(), example, check_trace=False)  # type: ignore[no-untyped-call]
            # Weights of eight bits ship as such: frozen now, they would ship as floats.
            if not is_packed(traced):
                traced = torch.jit.freeze(traced)
            write(partial(torch.jit.save, traced), file)
            saved = load_module(file, inputs[0].device)
            found = [saved(*(rows[:size] for rows in inputs)) for size in BATCHES]
        except (RuntimeError, TypeError, ValueError) as e:
            raise _not_traced(e, file) from e
    return deviation(found, reference_ND)


def deviation(found: list[Tensor], reference_ND: Tensor) -> Deviation:
    """Compare the rows of each batch size with the first rows of the reference."""
    rows = [one.to("cpu", torch.float32) for one in found]
    wanted = torch.cat([reference_ND[: len(one)] for one in rows])
    given = torch.cat(rows)
    if given.shape != wanted.shape:
        raise ExportError(
            N_("the traced model gives {given}, not {wanted}"),
            given=tuple(given.shape),
            wanted=tuple(wanted.shape),
        )
    # In float64: near 1, float32 has steps of 6e-8, and sums of squares more.
    cosines = F.cosine_similarity(given.double(), wanted.double(), dim=-1)
    largest = (given - wanted).abs().max()
    return Deviation(float(cosines.min().nan_to_num(-1.0)), float(largest.nan_to_num(torch.inf)))


def _time_ms(engine: Engine, images_NCHW: Tensor) -> float:
    """Return the median time of a call, from pixels to embeddings on the host."""
    times_s: list[float] = []
    for _warm_up in range(_WARM_UPS):
        engine.embed(images_NCHW)
    while len(times_s) < _RUNS and (sum(times_s) < _ENOUGH_S or len(times_s) < _MIN_RUNS):
        began_s = time.perf_counter()
        engine.embed(images_NCHW)
        times_s.append(time.perf_counter() - began_s)
    return median(times_s) * 1000


def _not_traced(error: Exception, file: Path) -> ExportError:
    text = str(error)
    line = next((one.strip() for one in text.splitlines() if one.strip()), repr(error))
    return ExportError(N_("{file} cannot be traced: {reason}"), file=file.name, reason=line)
