"""Which engine `auto` is, and how two engines are compared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch
from tiny_model import build, write_manifest

from worker.artifact.manifest import Artifact, open_artifact
from worker.contract.settings import Settings
from worker.engines import automatic
from worker.engines.automatic import with_engine
from worker.engines.base import Synchronous
from worker.errors import ArtifactError
from worker.export.paired import ROUNDS, times_as_fast


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return build(tmp_path / "tiny")


def with_files(place: Path, *more: str, without: tuple[str, ...] = (), **fields: str) -> Artifact:
    """The tiny model, with files of other engines in it, which nobody opens."""
    for name in more:
        (place / name).write_bytes(b"a program")
    for name in without:
        (place / name).unlink()
    write_manifest(place, labels="labels.txt", **fields)
    return open_artifact(place)


def auto(artifact: Artifact) -> str:
    return with_engine(Settings(), artifact).engine


def test_auto_is_torchscript_where_nothing_else_was_measured(place: Path) -> None:
    assert auto(open_artifact(place)) == "torchscript"
    assert auto(with_files(place, "image.pt2", "text.pt2")) == "torchscript"


@pytest.mark.parametrize("fastest", ["torchscript", "exported"])
def test_auto_is_what_the_export_found_faster(place: Path, fastest: str) -> None:
    assert auto(with_files(place, "image.pt2", "text.pt2", engine=fastest)) == fastest


def test_auto_is_never_an_engine_that_the_artifact_has_no_file_for(place: Path) -> None:
    assert auto(with_files(place, engine="exported")) == "torchscript"


def test_an_artifact_may_do_without_torchscript(place: Path) -> None:
    gone = ("image.pt", "text.pt")
    assert auto(with_files(place, "image.pt2", "text.pt2", without=gone)) == "exported"
    with pytest.raises(ArtifactError, match=r"files must list image\.pt$"):
        with_files(place, without=("image.pt2",))


def test_where_python_has_no_torchscript_auto_is_what_needs_none(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(automatic, "HAS_TORCHSCRIPT", False)
    monkeypatch.setattr(automatic, "_PREFERRED", ("exported", "torchscript"))
    assert auto(open_artifact(place)) == "torchscript"
    assert auto(with_files(place, "image.pt2", engine="torchscript")) == "exported"


def test_an_engine_that_is_asked_for_is_taken(place: Path) -> None:
    settings = msgspec.structs.replace(Settings(), engine="onnx")
    assert with_engine(settings, open_artifact(place)) == settings


class Taking(Synchronous):
    """Takes as long as it is told to, by a clock of its own."""

    def __init__(self, clock: list[float], taken_s: Iterator[float]) -> None:
        self.clock, self.taken_s, self.calls = clock, taken_s, 0
        self.name = self.device = "none"

    def embed(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.clock[0] += next(self.taken_s)
        return pixels_NCHW


def test_engines_are_compared_in_turns_so_that_a_machine_may_slow_down() -> None:
    clock = [0.0]

    def twice_as_slow_each_round(first_s: float) -> Iterator[float]:
        for number in range(100):
            yield first_s * 2**number

    slow, fast = (Taking(clock, twice_as_slow_each_round(one)) for one in (0.003, 0.002))
    found = times_as_fast(slow, fast, torch.zeros(1), clock=lambda: clock[0])
    assert found.middle == pytest.approx(1.5)
    assert slow.calls == fast.calls


def test_one_round_that_was_disturbed_does_not_count() -> None:
    clock = [0.0]
    taken = [1e-3] * (ROUNDS + 2)
    taken[5] = 1.0
    found = times_as_fast(
        Taking(clock, iter([1e-3] * (ROUNDS + 2))),
        Taking(clock, iter(taken)),
        torch.zeros(1),
        clock=lambda: clock[0],
    )
    assert found.middle == pytest.approx(1.0)
