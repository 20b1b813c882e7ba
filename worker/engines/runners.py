"""Base of engines whose tower is a function of torch, which runs as its device likes it best.

Shapes: N images, C colour channels, H height, W width, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import torch

from worker.engines.base import Synchronous, Wait
from worker.engines.cpu_streams import Streams
from worker.engines.cuda_graphs import CudaCard, CudaRunner

Tower = Callable[[torch.Tensor], torch.Tensor]

# A network of so many convolutions is of layers too short for threads to share.
MANY_CONVOLUTIONS: Final = 24


class TowerEngine(Synchronous):
    """A tower whose weights lie on `device`; every input is moved there.

    On CUDA it runs ahead, in graphs, and embeddings come back to the CPU.
    """

    def __init__(self, tower: Tower, device: torch.device, *, has_short_layers: bool) -> None:
        """Take a tower from uint8 pixels NCHW to rows ND.

        `has_short_layers`: its layers are of few bits, or many small convolutions. Then the threads
        of the CPU share a batch by images; large products of float32 take long enough for threads
        to share each of them.
        """
        self._device = device
        self._tower = tower
        self._runner: CudaRunner | Streams | None = None
        if device.type == "cuda":
            self._runner = CudaRunner(tower, CudaCard(device))
        elif has_short_layers:
            self._runner = Streams(partial(_rows, tower, device), torch.get_num_threads())

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
        """Return unit embeddings ND, or a classifier's logits, for uint8 pixels."""
        if self._runner is not None:
            return self._runner.launch(pixels_NCHW)()
        return _rows(self._tower, self._device, pixels_NCHW)


def _rows(tower: Tower, device: torch.device, pixels_NCHW: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return tower(pixels_NCHW.to(device))
