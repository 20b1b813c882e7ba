"""worker.bench.figures: what has been measured by now, and ratios of rounds."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from conftest import PATIENCE_S

from worker.bench import command
from worker.bench.figures import Measurements, ratios
from worker.bench.report import as_json, markdown, write_whole
from worker.bench.subject_process import warm_up
from worker.bench.subjects import PLAIN, Subject
from worker.cli import main


@pytest.fixture
def found() -> Measurements:
    made = Measurements()
    made.subjects = [Subject(PLAIN, "fp32"), Subject("eager fp32", "fp32", "eager")]
    return made


def test_speeds_are_compared_within_each_round(found: Measurements) -> None:
    # The machine is half as fast in the second round, and a third as fast in the third.
    for plain, eager in (([10.0, 12.0, 10.0], [5.0]), ([20.0], [8.0]), ([30.0], [20.0])):
        found.add(PLAIN, 4, plain)
        found.add("eager fp32", 4, eager)
    figure = next(one for one in found.figures() if (one.subject, one.batch) == ("eager fp32", 4))
    assert figure.versus_eager == 2.0
    assert figure.versus_eager_range == (1.5, 2.5)
    assert figure.round_ms == (5.0, 8.0, 20.0)
    assert (figure.runs, figure.rounds, figure.versus_text) == (3, 3, None)
    assert "2.00x (1.50-2.50)" in markdown([figure])


def test_a_round_that_only_one_has_had_is_not_compared() -> None:
    assert ratios([[10.0], [10.0]], [[5.0]]) == [2.0]
    assert ratios([], [[5.0]]) == []


def test_what_was_not_come_to_is_said_and_the_rest_is_there(found: Measurements) -> None:
    assert {one.problem for one in found.figures()} == {"stopped before it was loaded"}
    found.warm_up_ms = {one.name: {1: 0.042, 4: 20.5} for one in found.subjects}
    warming = "stopped before it was measured; warming up, a call took {} ms"
    figures = [(one.problem, one.warm_up_ms) for one in found.figures()]
    assert figures == 2 * [(warming.format("0.042"), 0.042), (warming.format("20.5"), 20.5)]
    found.add(PLAIN, 1, [10.0])
    first, *others = found.figures()
    assert (first.problem, first.rounds, first.versus_eager) == (None, 1, 1.0)
    assert all(one.problem for one in others)
    assert found.rounds == 0
    assert markdown(found.figures()).count("stopped before") == 3
    found.problems["eager fp32"] = "no memory"
    found.add(PLAIN, 4, [30.0])
    # A round is complete when all that can be measured have been.
    assert found.rounds == 1
    assert [one.problem for one in found.figures()] == [None, None, "no memory", "no memory"]
    assert '"rounds": 1' in as_json(found.figures(), {"rounds": found.rounds})


def test_a_subject_that_warms_up_is_timed_in_each_size_of_batch() -> None:
    sizes = []

    def run(pixels_NCHW: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels_NCHW))
        return pixels_NCHW.flatten(1).float()

    pixels_NCHW = torch.arange(8 * 3, dtype=torch.uint8).reshape(8, 3, 1, 1)
    found = warm_up(run, pixels_NCHW)
    assert sizes == [1] * 5 + [4] * 2
    assert found.rows.tolist() == pixels_NCHW.flatten(1).tolist()
    assert found.ms.keys() == {1, 4}


def test_a_stop_in_the_first_round_says_what_was_had_until_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def measure(*given: Any, **_options: object) -> None:
        (found,) = (one for one in given if isinstance(one, Measurements))
        found.subjects = [Subject(PLAIN, "fp32"), Subject("eager fp32", "fp32", "eager")]
        found.warm_up_ms[PLAIN] = {1: 0.42, 4: 1.5}
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(PATIENCE_S)

    monkeypatch.setattr(command, "measure", measure)
    done = CliRunner().invoke(main, ["bench", "--device=cpu"])
    assert done.exit_code == 130, done.output
    assert "stopped before anything was measured: 0 of 5 rounds are complete" in done.stderr
    for text in ("warming up,", "0.42 ms", "1.5 ms", "loaded"):
        assert text in done.stdout


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    write_whole(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(file, "new \ud800")
    assert file.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [file]
    # What is no file of its own is written to, and stays what it is.
    link = tmp_path / "link"
    link.symlink_to(file)
    write_whole(link, "new")
    assert link.is_symlink()
    assert file.read_text(encoding="utf-8") == "new"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_ends_the_command_with_the_files_that_were_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    # A real process is stopped in test_bench; here a measurement that takes no time.
    def measure(*given: Any, after_round: Callable[[int], None], **_options: object) -> None:
        (found,) = (one for one in given if isinstance(one, Measurements))
        found.subjects = [Subject(PLAIN, "fp32"), Subject("eager fp32", "fp32", "eager")]
        for batch in (1, 4):
            found.add(PLAIN, batch, [10.0])
            found.add("eager fp32", batch, [4.0])
        after_round(1)
        written.append((tmp_path / "bench.json").read_text(encoding="utf-8"))
        found.add(PLAIN, 1, [12.0])
        os.kill(os.getpid(), number)
        time.sleep(PATIENCE_S)

    written: list[str] = []
    monkeypatch.setattr(command, "measure", measure)
    files = {kind: tmp_path / f"bench.{kind}" for kind in ("json", "md")}
    options = [f"--json={files['json']}", f"--markdown={files['md']}", "--device=cpu"]
    done = CliRunner().invoke(main, ["bench", *options])
    assert done.exit_code == code, done.output
    assert "stopped: 1 of 5 rounds are complete" in done.stderr
    assert "after round 1, per image in batches of 4: transformers 2.5 ms, eager" in done.stderr
    assert "2.50x (2.50-2.50)" in done.stdout
    for text in (*written, files["json"].read_text("utf-8")):
        assert (json.loads(text)["rounds"], len(json.loads(text)["figures"])) == (1, 4)
    assert "| transformers | 1 | 11.0 |" in files["md"].read_text("utf-8")


@pytest.mark.parametrize("value", ["fp32,fp64", "auto", ""])
def test_a_precision_that_is_none_is_refused(value: str) -> None:
    done = CliRunner().invoke(main, ["bench", "--precision", value])
    assert done.exit_code == 2
    assert "is not one of" in done.stderr
