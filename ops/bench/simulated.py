"""A device that takes a fixed time for a batch and no CPU, and a worker of ours that holds one.

    python ops/bench/simulated.py MS

Everything but the model is real. It stands for a fast GPU where there is none, and with 0 ms for a
model that costs nothing, so that what is left is the queue's.

Shapes: N images, C channels, H x W pixels, D embedding dimensions.
"""

from __future__ import annotations

import sys
import time

import torch
from torch import Tensor

from worker.app import serve
from worker.contract.settings import Settings
from worker.models.artifact import Artifact


class SimulatedEngine:
    """Answers every batch after `latency_s` with the same unit vectors."""

    name = "simulated"
    device = "cpu"

    def __init__(self, dim: int, latency_s: float) -> None:
        self._dim = dim
        self._latency_s = latency_s

    def embed(self, pixels_NCHW: Tensor) -> Tensor:
        """Return ND, the first dimension 1 and the others 0."""
        if self._latency_s:
            time.sleep(self._latency_s)
        embeddings_ND = torch.zeros(len(pixels_NCHW), self._dim)
        embeddings_ND[:, 0] = 1
        return embeddings_ND


def main(latency_ms: float) -> int:
    """Run a worker until it is told to stop."""

    def load(artifact: Artifact, _settings: Settings) -> SimulatedEngine:
        return SimulatedEngine(artifact.manifest.embedding_dim, latency_ms / 1000)

    # Zeros and one 1: all that it computes is a copy, which needs no team of threads.
    torch.set_num_threads(1)
    return serve(Settings.from_env(), load)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
