"""A device that takes a fixed time for a batch and no CPU, and a worker of ours that holds one.

    python ops/bench/simulated.py MS

Everything but the model is real. It stands for a fast GPU where there is none, and with 0 ms for a
model that costs nothing, so that what is left is the queue's.

Shapes: N images, C channels, H x W pixels, D embedding dimensions.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from worker.blas import multiply_alone, wait_briefly

# As `worker start` does before it loads anything.
multiply_alone()
wait_briefly()

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from worker.artifact.manifest import Artifact  # noqa: E402
from worker.contract.settings import Settings  # noqa: E402
from worker.service.app import serve  # noqa: E402


class SimulatedEngine:
    """Answers with the same unit vectors, a batch `latency_s` after the one before it ended.

    As a GPU it works on its own: another batch may be launched meanwhile.
    """

    name = "simulated"
    device = "cpu"
    pipelined = True

    def __init__(self, dim: int, latency_s: float) -> None:
        self._dim = dim
        self._latency_s = latency_s
        self._free_at_s = 0.0

    def embed(self, pixels_NCHW: Tensor) -> Tensor:
        """Return ND, the first dimension 1 and the others 0."""
        return self.launch(pixels_NCHW)()

    def launch(self, pixels_NCHW: Tensor) -> Callable[[], Tensor]:
        """Begin a batch; what is returned sleeps until it has ended."""
        images = len(pixels_NCHW)
        ends_at_s = max(time.monotonic(), self._free_at_s) + self._latency_s
        self._free_at_s = ends_at_s

        def wait() -> Tensor:
            # At 0 ms not even a thread gives way.
            if (pause_s := ends_at_s - time.monotonic()) > 0:
                time.sleep(pause_s)
            embeddings_ND = torch.zeros(images, self._dim)
            embeddings_ND[:, 0] = 1
            return embeddings_ND

        return wait


def main(latency_ms: float) -> int:
    """Run a worker until it is told to stop."""

    def load(artifact: Artifact, _settings: Settings) -> SimulatedEngine:
        return SimulatedEngine(artifact.manifest.embedding_dim, latency_ms / 1000)

    # Zeros and one 1: all that it computes is a copy, which needs no team of threads.
    torch.set_num_threads(1)
    return serve(Settings.from_env(), load)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
