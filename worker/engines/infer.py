"""Pixels of several images -> embeddings, by one call of the engine.

Shapes: N images, C colour channels, H height, W width, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import torch

from worker.contract.i18n import gettext_noop as N_
from worker.engines.cuda_graphs import RUNS_BEFORE_CAPTURE
from worker.errors import ArtifactError, DeviceMemoryError, InferenceError

if TYPE_CHECKING:
    from worker.engines.base import Engine

Embeddings = npt.NDArray[np.float32]
# The profiling executor of TorchScript measures on the first run and compiles on the second: each
# shape on CUDA, all at once on the CPU.
_WARM_RUNS: Final = 2
_ALL_WARM: Final = 8


def infer(engine: Engine, pixels_CHW: Sequence[npt.NDArray[np.uint8]]) -> Embeddings:
    """Return embeddings ND, float32 on the CPU, one row an image in the order given.

    Raises:
        DeviceMemoryError: so many images at once do not fit.
        InferenceError: the model returned something other than N rows of finite numbers.
        Exception: whatever else the engine raises.
    """
    return launch(engine, pixels_CHW)()


def launch(engine: Engine, pixels_CHW: Sequence[npt.NDArray[np.uint8]]) -> Callable[[], Embeddings]:
    """Begin a batch; what is returned waits for the embeddings that `infer` returns.

    Raises:
        Exception: whatever the engine raises. What is returned raises as `infer` does.
    """
    with _out_of_memory_raised():
        wait = engine.launch(torch.from_numpy(np.stack(pixels_CHW)))

    def awaited() -> Embeddings:
        with _out_of_memory_raised():
            return _checked(wait(), len(pixels_CHW))

    return awaited


@contextmanager
def _out_of_memory_raised() -> Iterator[None]:
    """Raise a `DeviceMemoryError` when memory is short, and release what torch has cached."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as e:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise DeviceMemoryError from e


def _checked(rows_ND: torch.Tensor, images: int) -> Embeddings:
    embeddings_ND: Embeddings = rows_ND.to("cpu", torch.float32).numpy()
    if embeddings_ND.ndim != 2 or len(embeddings_ND) != images:  # noqa: PLR2004 - N and D
        msg = f"{images} images gave embeddings of shape {embeddings_ND.shape}"
        raise InferenceError(msg)
    if not np.isfinite(embeddings_ND).all():
        msg = "the model returned numbers that are not finite"
        raise InferenceError(msg)
    return embeddings_ND


def warm(engine: Engine, shape_CHW: tuple[int, int, int], max_batch: int, dim: int) -> int:
    """Run batch sizes up to `max_batch` until no first image has to wait for compilation.

    Return the largest that fits into memory.

    Raises:
        ArtifactError: the model does not run, or its embeddings do not have `dim` dimensions.
    """
    fitting = max_batch
    sizes = warm_sizes(max_batch)
    while sizes:
        size = sizes.pop(0)
        try:
            found = _dimensions(engine, shape_CHW, size, _runs(engine.device, fitting))
        except DeviceMemoryError as e:
            if size == 1:
                raise ArtifactError(
                    N_("{device} has too little memory for the model and one image"),
                    device=engine.device,
                ) from e
            fitting = size // 2
            sizes = warm_sizes(fitting)
        except (RuntimeError, ValueError, InferenceError) as e:
            raise ArtifactError(
                N_("the model does not run on {size} blank images on {device}: {reason}"),
                size=size,
                device=engine.device,
                reason=e,
            ) from e
    if found != dim:
        raise ArtifactError(
            N_("the model gives {found} dimensions, its manifest says {dim}"), found=found, dim=dim
        )
    return fitting


def _dimensions(engine: Engine, shape_CHW: tuple[int, int, int], size: int, runs: int) -> int:
    blank_CHW = np.zeros(shape_CHW, np.uint8)
    found = [infer(engine, [blank_CHW] * size) for _ in range(runs)]
    return int(found[-1].shape[1])


def warm_runs(device: str) -> int:
    """Return how often a batch size is run before it is as fast as ever: on CUDA once more.

    There, what is compiled by then is captured as a graph.
    """
    return RUNS_BEFORE_CAPTURE + 1 if device.startswith("cuda") else _WARM_RUNS


def _runs(device: str, max_batch: int) -> int:
    """Return how often each size is run. With several, the CPU compiles at the second size."""
    return 1 if device == "cpu" and max_batch > 1 else warm_runs(device)


def warm_sizes(max_batch: int) -> list[int]:
    """Return the sizes to warm up, the largest first: what it allocates serves the others.

    All small ones, of larger ones powers of two: all up to 64 would be 6,240 images.
    """
    return [
        size
        for size in range(max_batch, 0, -1)
        if size == max_batch or size <= _ALL_WARM or not size & (size - 1)
    ]
