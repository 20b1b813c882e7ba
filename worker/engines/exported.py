"""Exported: runs an artifact's `image.pt2`, which torch.export wrote and needs no TorchScript.

Shapes: N images, C colour channels, H height, W width, D embedding dimensions.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import structlog
import torch

from worker.artifact.cache_dir import cache_directory
from worker.artifact.manifest import IMAGE_PROGRAM
from worker.contract.i18n import gettext_noop as N_
from worker.contract.reasons import os_reason
from worker.engines.base import Synchronous, Wait, resolve_device
from worker.engines.cpu_streams import Streams
from worker.engines.cuda_graphs import CudaCard, CudaRunner
from worker.engines.programs import Program, convolutions, load_program, save_program
from worker.errors import ArtifactError, ExportError, NoCacheError
from worker.model.precision import ACCEPTED, Precision, convert, to_int8
from worker.model.rewrite import for_inference
from worker.model.sample import sample

if TYPE_CHECKING:
    from worker.artifact.manifest import Artifact

# A network of so many is of layers too short for threads to share.
_MANY_CONVOLUTIONS: Final = 24


log = structlog.get_logger()


class ExportedEngine(Synchronous):
    """The image tower as an exported program, each of its operations called from Python.

    Weights lie on `device`, and every input is moved there. On CUDA it runs ahead, in graphs; on
    the CPU threads share a batch by images where TorchScript's do.
    """

    name = "exported"

    def __init__(self, program: Program, device: torch.device, precision: Precision) -> None:
        self._device = device
        self._program = program
        self._runner: CudaRunner | Streams | None = None
        if device.type == "cuda":
            self._runner = CudaRunner(program, CudaCard(device))
        elif precision != "fp32" or convolutions(program) >= _MANY_CONVOLUTIONS:
            self._runner = Streams(partial(_rows, program, device), torch.get_num_threads())

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

    @property
    def device(self) -> str:
        """Where the weights lie: `cpu` or `cuda:0`."""
        return str(self._device)

    @property
    def pipelined(self) -> bool:
        """Whether it runs on CUDA, or in streams on the CPU."""
        return self._runner is not None

    def launch(self, pixels_NCHW: torch.Tensor) -> Wait:
        """Begin a batch; on the CPU in float32, compute it."""
        if self._runner is None:
            return super().launch(pixels_NCHW)
        return self._runner.launch(pixels_NCHW)

    def embed(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """Return unit embeddings ND for uint8 pixels."""
        if self._runner is not None:
            return self._runner.launch(pixels_NCHW)()
        return _rows(self._program, self._device, pixels_NCHW)


def _rows(program: Program, device: torch.device, pixels_NCHW: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return program(pixels_NCHW.to(device))


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
