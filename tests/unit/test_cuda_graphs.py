"""Batches on a GPU: graphs by size, two slots of pinned memory. The card here is simulated."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor

from worker.engines.base import resolve_device
from worker.engines.cuda_graphs import LARGEST_GRAPH, RUNS_BEFORE_CAPTURE, CudaCard, CudaRunner

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")


class SimulatedCard:
    """Computes at once, on the CPU, and notes what was asked of it, in order."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.refuses = False
        self._marks = 0

    def stream(self) -> AbstractContextManager[object]:
        return nullcontext()

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        self.notes.append(f"pin {shape[0]}")
        return torch.zeros(shape, dtype=dtype)

    def upload(self, pinned: Tensor) -> Tensor:
        return pinned.clone()

    def mark(self) -> Callable[[], None]:
        self._marks += 1
        number = self._marks
        return lambda: self.notes.append(f"await {number}")

    def capture(self, run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        if self.refuses:
            msg = "operation not permitted when stream is capturing\nand more"
            raise RuntimeError(msg)
        output = run()
        self.notes.append(f"capture {len(output)}")

        def replay() -> None:
            self.notes.append(f"replay {len(output)}")
            output.copy_(run())

        return output, replay


class Means:
    """Embeds an image as its channels' means, and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, pixels_NCHW: Tensor) -> Tensor:
        self.calls += 1
        return pixels_NCHW.float().mean((2, 3))


def images(*values: int) -> Tensor:
    rows = [torch.full((3, 2, 2), value, dtype=torch.uint8) for value in values]
    return torch.stack(rows)


def firsts(rows_ND: Tensor) -> list[float]:
    assert rows_ND.shape[1] == 3
    found: list[float] = rows_ND[:, 0].tolist()
    return found


def graphs(runner: CudaRunner) -> list[int]:
    """Return the batch sizes that are launched as a graph."""
    return sorted(runner._graphs)


@pytest.fixture
def card() -> SimulatedCard:
    return SimulatedCard()


@pytest.fixture
def runner(card: SimulatedCard) -> CudaRunner:
    return CudaRunner(Means(), card)


def test_a_size_is_captured_once_it_has_run_often_enough_and_replayed_from_then_on(
    runner: CudaRunner, card: SimulatedCard
) -> None:
    for number in range(RUNS_BEFORE_CAPTURE):
        assert firsts(runner.launch(images(number, 7))()) == [number, 7]
    assert graphs(runner) == [2]
    assert "replay 2" not in card.notes
    for number in range(10, 13):
        assert firsts(runner.launch(images(number, 7))()) == [number, 7]
    assert card.notes.count("replay 2") == 3
    assert card.notes.count("capture 2") == 1


def test_every_size_has_a_graph_of_its_own(runner: CudaRunner) -> None:
    for size in (4, 1, 3, 2):
        for start in range(4):
            values = list(range(start, start + size))
            assert firsts(runner.launch(images(*values))()) == values
    assert graphs(runner) == [1, 2, 3, 4]


def test_large_batches_are_launched_kernel_by_kernel(
    runner: CudaRunner, card: SimulatedCard
) -> None:
    values = list(range(LARGEST_GRAPH + 1))
    for _ in range(RUNS_BEFORE_CAPTURE + 1):
        assert firsts(runner.launch(images(*values))()) == values
    assert graphs(runner) == []


def test_two_batches_are_under_way_and_keep_apart(runner: CudaRunner) -> None:
    for _ in range(RUNS_BEFORE_CAPTURE):
        runner.launch(images(0, 0))()
    first, second = runner.launch(images(1, 2)), runner.launch(images(3, 4))
    assert firsts(first()) == [1, 2]
    assert firsts(second()) == [3, 4]


def test_memory_is_written_again_only_when_its_batch_has_left(
    runner: CudaRunner, card: SimulatedCard
) -> None:
    waits = [runner.launch(images(number)) for number in (1, 2)]
    assert "await 1" not in card.notes
    runner.launch(images(3))
    assert "await 1" in card.notes
    assert "await 2" not in card.notes
    assert firsts(waits[1]()) == [2]
    # What was there is gone: rather an error than another image's tags.
    with pytest.raises(RuntimeError, match="batch 1 was awaited after 2 others"):
        waits[0]()


def test_embeddings_stay_when_the_next_batch_comes(runner: CudaRunner) -> None:
    kept = runner.launch(images(5))()
    for number in range(5):
        runner.launch(images(number))()
    assert firsts(kept) == [5]


def test_pinned_memory_grows_with_the_batch_and_is_used_again(
    runner: CudaRunner, card: SimulatedCard
) -> None:
    for size in (1, 1, 4, 4, 2, 2, 3, 3):
        runner.launch(images(*range(size)))()
    # Of each lane, for pixels and for rows.
    assert [note for note in card.notes if note.startswith("pin")] == ["pin 1"] * 4 + ["pin 4"] * 4


def test_a_module_that_cannot_be_captured_runs_without_and_is_not_asked_again(
    runner: CudaRunner, card: SimulatedCard, capsys: pytest.CaptureFixture[str]
) -> None:
    card.refuses = True
    for number in range(6):
        assert firsts(runner.launch(images(number, 1))()) == [number, 1]
        assert firsts(runner.launch(images(number))()) == [number]
    assert graphs(runner) == []
    logged = capsys.readouterr().out
    assert logged.count("cuda.no_graphs") == 1
    assert "and more" not in logged


@cuda
def test_a_gpu_answers_as_the_module_does_with_and_without_graphs() -> None:
    device = resolve_device("cuda", "fp32")
    linear = torch.nn.Linear(12, 5).to(device)

    def module(pixels_NCHW: Tensor) -> Tensor:
        found: Tensor = linear(pixels_NCHW.float().flatten(1))
        return found

    runner = CudaRunner(module, CudaCard(device))
    for size in (4, 3, 2, 1):
        for start in range(5):
            pixels_NCHW = images(*range(start, start + size))
            with torch.inference_mode():
                wanted = module(pixels_NCHW.to(device)).cpu()
            assert torch.allclose(runner.launch(pixels_NCHW)(), wanted)
    assert graphs(runner) == [1, 2, 3, 4]
