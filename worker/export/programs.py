"""Module -> exported program, run again from its file and compared with what it should give.

Shapes: N rows, C channels, H x W pixels, D embedding dimensions.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from worker.engines.exported import ExportedEngine
from worker.engines.programs import load_program, save_program
from worker.errors import ArtifactError, ExportError
from worker.export.tracing import BATCHES, Deviation, TracedTower, deviation, times_ms
from worker.model.precision import Precision


def export_and_measure(
    tower: nn.Module, precision: Precision, images_NCHW: Tensor, reference_ND: Tensor, file: Path
) -> TracedTower:
    """Export an image tower as a program, compare it with the reference, and time it.

    Raises:
        ExportError: it cannot be exported or run.
    """
    found = export_program(tower, (images_NCHW,), reference_ND, file)
    device = images_NCHW.device
    engine = ExportedEngine(load_program(file, device), device, precision)
    return TracedTower(
        file, precision, found, reference_ND.shape[1], times_ms(engine, images_NCHW.to("cpu"))
    )


def export_program(
    tower: nn.Module, inputs: tuple[Tensor, ...], reference_ND: Tensor, file: Path
) -> Deviation:
    """Export and save a tower; return how far the saved one is from the reference.

    Each of `inputs` and the reference have as many rows as the largest of `BATCHES`.

    Raises:
        ExportError: it cannot be exported, saved or run, or depends on the batch.
    """
    save_program(tower, inputs, file)
    try:
        saved = load_program(file, inputs[0].device)
        with torch.inference_mode():
            found = [saved(*(rows[:size] for rows in inputs)) for size in BATCHES]
    except (ArtifactError, RuntimeError, TypeError, ValueError) as e:
        raise ExportError(e) from e
    return deviation(found, reference_ND)
