"""Pixels of several images -> embeddings, by one call of the engine.

Shapes: N images, C colour channels, H height, W width, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import torch

from worker.errors import ArtifactError, InferenceError

if TYPE_CHECKING:
    from worker.engines.base import Engine

# The profiling executor of TorchScript measures on the first run of a shape and compiles on the
# second; the third shows that it is done.
_WARM_RUNS: Final = 3


def infer(engine: Engine, pixels_CHW: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
    """Return embeddings ND, float32 on the CPU, one row an image in the order given.

    Raises:
        InferenceError: the model returned something other than N rows of finite numbers.
        Exception: whatever the engine raises.
    """
    stacked_NCHW = torch.from_numpy(np.stack(pixels_CHW))
    embeddings_ND = engine.embed(stacked_NCHW).to("cpu", torch.float32).numpy()
    if embeddings_ND.ndim != 2 or len(embeddings_ND) != len(pixels_CHW):  # noqa: PLR2004 - N and D
        msg = f"{len(pixels_CHW)} images gave embeddings of shape {embeddings_ND.shape}"
        raise InferenceError(msg)
    if not np.isfinite(embeddings_ND).all():
        msg = "the model returned numbers that are not finite"
        raise InferenceError(msg)
    return embeddings_ND


def warm(engine: Engine, shape_CHW: tuple[int, int, int], max_batch: int, dim: int) -> None:
    """Run every batch size up to `max_batch` until no first image has to wait for compilation.

    Raises:
        ArtifactError: the model does not run, or its embeddings do not have `dim` dimensions.
    """
    blank_CHW = np.zeros(shape_CHW, np.uint8)
    for size in range(1, max_batch + 1):
        for _ in range(_WARM_RUNS):
            try:
                embeddings_ND = infer(engine, [blank_CHW] * size)
            except (RuntimeError, ValueError, InferenceError) as e:
                msg = f"the model does not run on {size} blank images on {engine.device}: {e}"
                raise ArtifactError(msg) from e
    if embeddings_ND.shape[1] != dim:
        msg = f"the model gives {embeddings_ND.shape[1]} dimensions, its manifest says {dim}"
        raise ArtifactError(msg)
