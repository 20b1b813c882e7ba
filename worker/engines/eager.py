"""Eager: transformers' own module, unchanged. The reference, and what takes over when others fail.

Shapes: N images, C colour channels, H height, W width, D embedding dimensions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch

from worker.engines.base import Synchronous, resolve_device

if TYPE_CHECKING:
    from worker.artifact.manifest import Artifact


class EagerEngine(Synchronous):
    """The image tower as transformers runs it. Weights lie on `device`; inputs are moved there."""

    name = "eager"

    def __init__(self, tower: Any, device: torch.device) -> None:
        self._tower = tower
        self._device = device

    @classmethod
    def load(cls, artifact: Artifact, device: str = "auto") -> Self:
        """Load transformers' own weights: float32 on the CPU, the artifact's precision on CUDA.

        Raises:
            DeviceError: there is no such device.
            ArtifactError: the artifact does not hold them.
        """
        # Only now: transformers takes seconds to load, which TorchScript alone need not.
        from worker.model.original import original_tower  # noqa: PLC0415
        from worker.model.precision import convert  # noqa: PLC0415

        target = resolve_device(device, artifact.manifest.precision)
        precision = artifact.manifest.precision if target.type == "cuda" else "fp32"
        return cls(convert(original_tower(artifact), precision, target), target)

    @property
    def device(self) -> str:
        """Where the weights lie: `cpu` or `cuda:0`."""
        return str(self._device)

    def embed(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """Return unit embeddings ND, or a classifier's logits, for uint8 pixels."""
        with torch.inference_mode():
            rows_ND: torch.Tensor = self._tower(pixels_NCHW.to(self._device))
        return rows_ND
