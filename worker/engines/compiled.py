"""Compile: the rewritten image tower through torch.compile, which writes C++ or Triton for it.

Shapes: N images, C colour channels, H height, W width, D embedding dimensions.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any, Self

import torch

from worker.contract.i18n import gettext_noop as N_
from worker.engines.base import Synchronous, resolve_device
from worker.errors import ArtifactError, DeviceError

if TYPE_CHECKING:
    from worker.artifact.manifest import Artifact


class CompileEngine(Synchronous):
    """The image tower compiled while the worker warms up, for any batch size."""

    name = "compile"

    def __init__(self, tower: Any, device: torch.device) -> None:
        self._compiled: Any = torch.compile(tower, dynamic=True)
        self._device = device

    @classmethod
    def load(cls, artifact: Artifact, device: str = "auto") -> Self:
        """Load and rewrite transformers' own weights in the artifact's precision.

        Raises:
            DeviceError: there is no such device, or no C++ compiler, which the CPU needs.
            ArtifactError: the artifact does not hold them, or is int8.
        """
        from worker.model.original import original_tower  # noqa: PLC0415
        from worker.model.precision import convert  # noqa: PLC0415
        from worker.model.rewrite import for_inference  # noqa: PLC0415

        precision = artifact.manifest.precision
        target = resolve_device(device, precision)
        if precision == "int8":
            raise ArtifactError(
                N_(
                    "model {model} is int8, which torch.compile does not run: export it in "
                    "fp32 or bf16, or take another engine"
                ),
                model=artifact.id,
            )
        if target.type == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
            raise DeviceError(
                N_("the engine compile needs a C++ compiler (Debian: apt-get install g++)")
            )
        return cls(convert(for_inference(original_tower(artifact)), precision, target), target)

    @property
    def device(self) -> str:
        """Where the weights lie: `cpu` or `cuda:0`."""
        return str(self._device)

    def embed(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """Return unit embeddings ND, or a classifier's logits, for uint8 pixels."""
        with torch.inference_mode():
            rows_ND: torch.Tensor = self._compiled(pixels_NCHW.to(self._device))
        return rows_ND
