"""The batch size that pays is found, proposed and remembered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from conftest import run

from worker.artifact.manifest import Artifact, open_artifact
from worker.bench.tune import Rate, propose, rates
from worker.contract.settings import Settings
from worker.engines.base import Synchronous
from worker.engines.tuned_batch import FILE, remember, tuned

SHAPE_CHW = (3, 4, 4)


class Timed(Synchronous):
    """Takes the given time for a batch, by a clock of its own."""

    name = "timed"
    device = "cpu"

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self._seconds = seconds
        self.now_s = 0.0
        self.largest = 0

    def embed(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        self.largest = max(self.largest, len(pixels_NCHW))
        self.now_s += self._seconds(len(pixels_NCHW))
        return torch.ones(len(pixels_NCHW), 2)

    def clock(self) -> float:
        return self.now_s


@pytest.fixture
def bundled() -> Artifact:
    return open_artifact()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_each_size_is_measured_as_it_is() -> None:
    engine = Timed(lambda size: 0.010 + 0.001 * size)
    found = rates(engine, SHAPE_CHW, 1.0, clock=engine.clock)
    assert [(one.batch, round(one.ms, 6)) for one in found] == [
        *((1, 11), (2, 12), (4, 14), (8, 18), (16, 26), (32, 42), (64, 74))
    ]
    assert found[2].images_per_s == pytest.approx(4000 / 14)


def test_sizes_that_bring_nothing_are_not_tried_further() -> None:
    engine = Timed(lambda size: 0.010 * size)
    found = rates(engine, SHAPE_CHW, 0.5, clock=engine.clock)
    assert [one.batch for one in found] == [1, 2, 4]
    assert engine.largest == 4


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_memory_ends_the_sizes(error: type[Exception]) -> None:
    def seconds(size: int) -> float:
        if size > 8:
            raise error
        return 0.010

    engine, echoed = Timed(seconds), list[str]()
    found = rates(engine, SHAPE_CHW, 0.5, echo=echoed.append, clock=engine.clock)
    assert [one.batch for one in found] == [1, 2, 4, 8]
    assert "a batch of 16 does not fit in memory" in echoed


def test_the_smallest_of_those_as_good_as_the_best_is_proposed() -> None:
    found = [Rate(batch=size, ms=ms) for size, ms in ((1, 10), (2, 12), (4, 20), (8, 39.5))]
    assert propose(found).batch == 4


@pytest.mark.parametrize(
    ("image_ms", "batch"),
    [
        # 16 take 210 ms, and 32 would take 378.
        (20, 16),
        # Larger than the batch by default is none that takes so long; up to it all count.
        (100, 4),
    ],
)
def test_no_batch_is_proposed_that_holds_up_what_is_urgent(image_ms: float, batch: int) -> None:
    """Each doubling is a tenth faster."""
    sizes = (1, 2, 4, 8, 16, 32)
    found = [Rate(batch=size, ms=image_ms * size * 0.9**n) for n, size in enumerate(sizes)]
    assert propose(found).batch == batch


def test_what_is_remembered_is_for_that_model_engine_and_device_alone(bundled: Artifact) -> None:
    settings = Settings(device="cpu")
    assert tuned(settings, bundled) == settings
    remember(settings, bundled, 16)
    assert tuned(settings, bundled).largest_batch == 16
    eager = msgspec.structs.replace(settings, engine="eager")
    remember(eager, bundled, 2)
    assert tuned(eager, bundled).largest_batch == 2
    assert tuned(settings, bundled).largest_batch == 16
    more_threads = msgspec.structs.replace(settings, threads=torch.get_num_threads() + 1)
    assert tuned(more_threads, bundled).largest_batch == 4


def test_what_the_user_sets_wins(bundled: Artifact) -> None:
    remember(Settings(device="cpu"), bundled, 16)
    assert tuned(Settings(device="cpu", max_batch=3), bundled).largest_batch == 3


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": "b"}', '{"a": -1}'])
def test_a_damaged_memory_is_no_hindrance(bundled: Artifact, cache: Path, content: str) -> None:
    file = cache / "wanwu-tagger" / FILE
    file.parent.mkdir(parents=True)
    file.write_text(content)
    assert tuned(Settings(device="cpu"), bundled).largest_batch == 4
    remember(Settings(device="cpu"), bundled, 8)
    assert tuned(Settings(device="cpu"), bundled).largest_batch == 8


@pytest.mark.integration
def test_the_command_measures_proposes_and_remembers(tmp_path: Path, cache: Path) -> None:
    out = tmp_path / "tune.json"
    argv = ["--tune", "--device", "cpu", "--seconds", "0.1", "--json", str(out)]
    done = run("worker", "bench", *argv)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    assert found["proposed"] in [one["batch"] for one in found["batches"]]
    assert "proposed" in done.stdout
    kept = json.loads((cache / "wanwu-tagger" / FILE).read_text(encoding="utf-8"))
    assert list(kept.values()) == [found["proposed"]]
