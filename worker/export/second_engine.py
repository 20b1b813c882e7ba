"""An exported image tower -> the same for another engine beside it, compared and measured.

Shapes: N images, C channels, H x W pixels, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from worker.artifact.manifest import TOWERS
from worker.contract.i18n import gettext as _
from worker.contract.rounding import figure
from worker.engines.base import Engine
from worker.engines.exported import ExportedEngine
from worker.engines.programs import load_program
from worker.engines.torchscript import TorchScriptEngine, load_module
from worker.errors import ExportError
from worker.export.paired import times_as_fast
from worker.export.programs import export_and_measure
from worker.export.tracing import BATCHES, TracedTower, trace_and_measure
from worker.export.variant import Variant
from worker.model.precision import Precision, use_int8_engine

MAKERS: Final[dict[str, Callable[..., TracedTower]]] = {
    "torchscript": trace_and_measure,
    "exported": export_and_measure,
}
# The first loads sooner, or was asked for first: the other has to be this much faster.
_WORTH_ANOTHER: Final = 1.05
_BATCH: Final = 4
_MEGABYTE: Final = 1e6


class Added(NamedTuple):
    """Another engine's image tower, and how many times as fast as the first engine it is."""

    name: str
    tower: TracedTower
    times_as_fast: float

    @property
    def is_faster(self) -> bool:
        """Whether it is enough faster for `auto` to take it."""
        return self.times_as_fast > _WORTH_ANOTHER

    def parity(self) -> dict[str, Any]:
        """Return the manifest's entries about its agreement."""
        return {f"{self.name}_{key}": value for key, value in self.tower.parity().items()}

    def speed(self, first: str) -> dict[str, Any]:
        """Return the manifest's entries about its speed."""
        return {
            f"{self.name}_to_{first}": round(self.times_as_fast, 3),
            **{f"{self.name}_{key}": value for key, value in self.tower.speed().items()},
        }


class Trial(NamedTuple):
    """Where towers are made, and judged: by inputs on the device and what they should give."""

    directory: Path
    images_NCHW: Tensor
    reference_ND: Tensor
    echo: Callable[[str], None]

    def make(self, engine: str, variant: Variant) -> TracedTower:
        """Write a tower in its precision for an engine, and measure it.

        Raises:
            ExportError: it cannot be exported or run.
        """
        precision = variant.precision
        file = self.directory / f"{precision}-{TOWERS[engine]}"
        images_NCHW, reference_ND = self.images_NCHW, self.reference_ND
        if variant.jury is not None:
            images_NCHW, reference_ND = variant.jury.first(max(BATCHES), self.images_NCHW.device)
        found = MAKERS[engine](variant.tower, precision, images_NCHW, reference_ND, file)
        return variant.judged(found, open_file(engine, file, images_NCHW.device, precision))


def add_engine(name: str, first: Engine, variant: Variant, trial: Trial) -> Added | None:
    """Write the image tower for another engine; None, and no file, if it cannot be or disagrees.

    `variant` is what the first engine's file was made of.
    """
    echo = trial.echo
    echo(_("exporting the image tower for the engine {engine}").format(engine=name))
    try:
        tower = trial.make(name, variant)
    except ExportError as e:
        line = _("the artifact goes without the engine {engine}: {reason}")
        echo(line.format(engine=name, reason=e))
        return None
    echo(str(tower))
    if not tower.agrees:
        line = _("the artifact goes without the engine {engine}: it is too far from the model")
        echo(line.format(engine=name))
        tower.file.unlink()
        return None
    file = tower.file.rename(trial.directory / TOWERS[name])
    other = open_exported(name, trial.directory, trial.images_NCHW.device, variant.precision)
    found = Added(
        name, tower, times_as_fast(first, other, trial.images_NCHW[:_BATCH].to("cpu")).middle
    )
    line = _("{engine} is {times:.2f} times as fast as {first}; its file has {megabytes} MB")
    size = figure(file.stat().st_size / _MEGABYTE)
    echo(line.format(engine=name, times=found.times_as_fast, first=first.name, megabytes=size))
    return found


def open_exported(
    name: str, directory: Path, device: torch.device, precision: Precision
) -> TorchScriptEngine | ExportedEngine:
    """Return what runs the image tower that was just exported, as a worker does."""
    return open_file(name, directory / TOWERS[name], device, precision)


def open_file(
    name: str, file: Path, device: torch.device, precision: Precision
) -> TorchScriptEngine | ExportedEngine:
    """Return what runs an image tower's file."""
    if name == ExportedEngine.name:
        return ExportedEngine(load_program(file, device), device, precision)
    if precision == "int8":
        use_int8_engine()
    return TorchScriptEngine(load_module(file, device), device, precision)
