"""An exported image tower -> the same for another engine beside it, compared and measured.

Shapes: N images, C channels, H x W pixels, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from worker.artifact.manifest import TOWERS
from worker.contract.i18n import gettext as _
from worker.engines.base import Engine
from worker.engines.exported import ExportedEngine
from worker.engines.programs import load_program
from worker.engines.torchscript import TorchScriptEngine, load_module
from worker.errors import ExportError
from worker.export.paired import times_as_fast
from worker.export.programs import export_and_measure
from worker.export.tracing import TracedTower, trace_and_measure
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

    def make(self, engine: str, converted: nn.Module, precision: Precision) -> TracedTower:
        """Write a tower that was converted to a precision for an engine, and measure it.

        Raises:
            ExportError: it cannot be exported or run.
        """
        file = self.directory / f"{precision}-{TOWERS[engine]}"
        return MAKERS[engine](converted, precision, self.images_NCHW, self.reference_ND, file)


def add_engine(
    name: str, first: Engine, converted: nn.Module, precision: Precision, trial: Trial
) -> Added | None:
    """Write the image tower for another engine; None, and no file, if it cannot be or disagrees.

    `converted` is the tower that the first engine's file was made of.
    """
    echo = trial.echo
    echo(_("exporting the image tower for the engine {engine}").format(engine=name))
    try:
        tower = trial.make(name, converted, precision)
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
    other = open_exported(name, trial.directory, trial.images_NCHW.device, precision)
    found = Added(name, tower, times_as_fast(first, other, trial.images_NCHW[:_BATCH].to("cpu")))
    line = _("{engine} is {times:.2f} times as fast as {first}; its file has {megabytes:.0f} MB")
    size = file.stat().st_size / _MEGABYTE
    echo(line.format(engine=name, times=found.times_as_fast, first=first.name, megabytes=size))
    return found


def open_exported(
    name: str, directory: Path, device: torch.device, precision: Precision
) -> TorchScriptEngine | ExportedEngine:
    """Return what runs the image tower that was just exported, as a worker does."""
    file = directory / TOWERS[name]
    if name == ExportedEngine.name:
        return ExportedEngine(load_program(file, device), device, precision)
    if precision == "int8":
        use_int8_engine()
    return TorchScriptEngine(load_module(file, device), device, precision)
