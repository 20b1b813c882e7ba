"""Exported: runs an artifact's `image.pt2`, which torch.export wrote and needs no TorchScript.

Shapes: N images, C colour channels, H height, W width, D embedding dimensions.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

import structlog
import torch

from worker.artifact.cache_dir import cache_directory
from worker.artifact.manifest import IMAGE_PROGRAM
from worker.contract.i18n import gettext_noop as N_
from worker.contract.reasons import os_reason
from worker.engines.base import resolve_device
from worker.engines.programs import Program, convolutions, load_program, save_program
from worker.engines.runners import MANY_CONVOLUTIONS, TowerEngine
from worker.errors import ArtifactError, ExportError, NoCacheError
from worker.model.precision import ACCEPTED, Precision, convert, to_int8
from worker.model.rewrite import for_inference
from worker.model.sample import sample

if TYPE_CHECKING:
    from worker.artifact.manifest import Artifact

log = structlog.get_logger()


class ExportedEngine(TowerEngine):
    """The image tower as an exported program, each of its operations called from Python."""

    name = "exported"

    def __init__(self, program: Program, device: torch.device, precision: Precision) -> None:
        has_many = convolutions(program) >= MANY_CONVOLUTIONS
        super().__init__(program, device, has_short_layers=precision != "fp32" or has_many)

    @classmethod
    def load(cls, artifact: Artifact, device: str = "auto") -> Self:
        """Load the image tower on `auto`, `cpu`, `cuda` or `cuda:n`.

        An artifact without the file gets one in the cache directory, on first use.

        Raises:
            DeviceError: there is no such device.
            ArtifactError: this torch cannot load the file; or there is none, and none can be made.
            NoCacheError: what was made cannot be kept.
        """
        precision = artifact.manifest.precision
        target = resolve_device(device, precision)
        return cls(load_program(program_file(artifact, target), target), target, precision)


def program_file(artifact: Artifact, device: torch.device) -> Path:
    """Return the artifact's exported image tower, or one made of its weights and kept.

    Raises:
        ArtifactError: it has none, and none can be made.
        NoCacheError: what was made cannot be kept.
    """
    if IMAGE_PROGRAM in artifact.manifest.files:
        return artifact.file(IMAGE_PROGRAM)
    kept = cache_directory() / "exported" / f"{artifact.id}-{device.type}-{torch.__version__}.pt2"
    if not kept.exists():
        _make(artifact, kept)
    return kept


def _make(artifact: Artifact, kept: Path) -> None:
    from worker.model.original import original_tower  # noqa: PLC0415 - transformers takes seconds

    manifest = artifact.manifest
    log.info("program.making", model=artifact.id, file=str(kept))
    spec, cpu = manifest.preprocessing, torch.device("cpu")
    rewritten = for_inference(original_tower(artifact))
    if manifest.precision == "int8":
        tower = to_int8(rewritten, sample(spec, None).calibrated_on, ACCEPTED).tower
    else:
        tower = convert(rewritten, manifest.precision, cpu)
    images_NCHW = torch.zeros(2, 3, spec.height, spec.width, dtype=torch.uint8)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as directory:
            made = Path(directory) / IMAGE_PROGRAM
            save_program(tower, (images_NCHW,), made)
            # Whole or not at all, should several workers start at once.
            made.rename(kept)
    except ExportError as e:
        raise ArtifactError(
            N_("model {model} cannot be made into an exported program: {reason}"),
            model=artifact.id,
            reason=e,
        ) from e
    except OSError as e:
        raise NoCacheError(
            N_("{file} cannot be written: {reason}"), file=kept, reason=os_reason(e)
        ) from e
