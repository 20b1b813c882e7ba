"""worker.bench.figures: what has been measured by now, and ratios of rounds."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from worker.bench.figures import Measurements, ratios
from worker.bench.report import as_json, markdown, write_whole
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
    assert {one.problem for one in found.figures()} == {"stopped before it was measured"}
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


@pytest.mark.parametrize("value", ["fp32,fp64", "auto", ""])
def test_a_precision_that_is_none_is_refused(value: str) -> None:
    done = CliRunner().invoke(main, ["bench", "--precision", value])
    assert done.exit_code == 2
    assert "is not one of" in done.stderr
