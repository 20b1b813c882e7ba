"""Pixels -> embeddings: order, shape and type, whatever the engine gives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from worker.engines.base import Synchronous
from worker.engines.infer import infer, warm, warm_sizes
from worker.errors import ArtifactError, DeviceMemoryError, InferenceError


class Engine(Synchronous):
    """Does what the test says and keeps the shapes that it saw."""

    name = "scripted"
    device = "cpu"

    def __init__(self, embed: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._embed = embed
        self.shapes: list[tuple[int, ...]] = []

    def embed(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(pixels_NCHW.shape))
        assert pixels_NCHW.dtype == torch.uint8
        return self._embed(pixels_NCHW)


def colours(pixels_NCHW: torch.Tensor) -> torch.Tensor:
    return pixels_NCHW.double().mean((2, 3))


def image(*rgb: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.broadcast_to(np.array(rgb, np.uint8)[:, None, None], (3, 5, 4)).copy()


def test_row_n_belongs_to_image_n_as_float32_on_the_cpu() -> None:
    embeddings_ND = infer(Engine(colours), [image(1, 2, 3), image(4, 5, 6)])
    assert embeddings_ND.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert embeddings_ND.dtype == np.float32


def test_all_images_go_in_one_call() -> None:
    engine = Engine(colours)
    infer(engine, [image(0, 0, 0)] * 3)
    assert engine.shapes == [(3, 3, 5, 4)]


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_a_wrong_number_of_rows_is_a_failure(rows: int) -> None:
    with pytest.raises(InferenceError, match="2 images gave embeddings of shape"):
        infer(Engine(lambda _: torch.zeros(rows, 3)), [image(0, 0, 0)] * 2)


def test_a_result_that_is_no_matrix_is_a_failure() -> None:
    with pytest.raises(InferenceError, match="shape"):
        infer(Engine(lambda x: x.float()), [image(0, 0, 0)])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_a_failure(value: float) -> None:
    with pytest.raises(InferenceError, match="not finite"):
        infer(Engine(lambda x: torch.full((len(x), 3), value)), [image(0, 0, 0)])


@pytest.mark.parametrize(
    ("device", "most", "runs"), [("cpu", 4, 1), ("cpu", 1, 2), ("cuda:0", 4, 3), ("cuda:0", 1, 3)]
)
def test_warming_runs_every_batch_size_until_it_is_compiled_and_captured(
    device: str, most: int, runs: int
) -> None:
    engine = Engine(colours)
    engine.device = device
    warm(engine, (3, 5, 4), max_batch=most, dim=3)
    assert set(engine.shapes) == {(n, 3, 5, 4) for n in range(1, most + 1)}
    assert all(engine.shapes.count(shape) == runs for shape in engine.shapes)


def test_of_large_batches_some_sizes_are_warmed_and_the_largest_first() -> None:
    assert warm_sizes(4) == [4, 3, 2, 1]
    assert warm_sizes(40) == [40, 32, 16, 8, 7, 6, 5, 4, 3, 2, 1]


def test_a_model_that_does_not_run_is_found_when_warming() -> None:
    def frozen_to_one(pixels_NCHW: torch.Tensor) -> torch.Tensor:
        return pixels_NCHW.reshape(1, 60).float()

    with pytest.raises(ArtifactError, match="does not run on 2 blank images on cpu"):
        warm(Engine(frozen_to_one), (3, 5, 4), max_batch=2, dim=60)


def test_a_model_with_other_dimensions_than_its_manifest_is_found_when_warming() -> None:
    with pytest.raises(ArtifactError, match="gives 3 dimensions, its manifest says 512"):
        warm(Engine(colours), (3, 5, 4), max_batch=1, dim=512)


def test_want_of_memory_is_told_from_other_failures() -> None:
    def short(_: torch.Tensor) -> torch.Tensor:
        msg = "CUDA out of memory. Tried to allocate 2.00 GiB"
        raise torch.OutOfMemoryError(msg)

    with pytest.raises(DeviceMemoryError):
        infer(Engine(short), [image(0, 0, 0)])


@pytest.mark.parametrize(("fits", "wanted", "found"), [(4, 4, 4), (3, 4, 2), (1, 64, 1)])
def test_warming_finds_the_largest_batch_that_fits(fits: int, wanted: int, found: int) -> None:
    def small(pixels_NCHW: torch.Tensor) -> torch.Tensor:
        if len(pixels_NCHW) > fits:
            raise torch.OutOfMemoryError
        return colours(pixels_NCHW)

    assert warm(Engine(small), (3, 5, 4), max_batch=wanted, dim=3) == found


def test_a_device_without_room_for_one_image_is_refused() -> None:
    def none(_: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError

    with pytest.raises(ArtifactError, match="too little memory for the model and one image"):
        warm(Engine(none), (3, 5, 4), max_batch=4, dim=3)
