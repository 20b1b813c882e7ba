"""ops/bench/all: benches in order, what each gave kept as soon as it ended, one page of all."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import msgspec
import psutil
import pytest
from conftest import PATIENCE_S, ROOT
from suite import page as pages
from suite.benches import BENCHES, FULL, QUICK, Bench, Effort, all_benches, chosen
from suite.command import Run, main, run_all
from suite.results import Result, load, save
from suite.show import Chart, Table, bars, tables

from worker.cli.bench import bench as worker_bench

GIVES = """
import json, sys
from pathlib import Path
Path(sys.argv[-1]).write_text(json.dumps({"rows": {"a": {"ms": 1.5}, "b": {"ms": 2.5}}}))
"""
FAILS = "import sys; sys.exit('there is no such thing')"
# It has a child in a session of its own, and writes what it has when it is interrupted.
WAITS = """
import json, subprocess, sys, time
from pathlib import Path
argv = [sys.executable, "-c", "import time; time.sleep(600)"]
child = subprocess.Popen(argv, start_new_session=True)
print(child.pid, flush=True)
try:
    time.sleep(600)
except KeyboardInterrupt:
    Path(sys.argv[-1]).write_text(json.dumps({"rows": {"half": {"ms": 3.5}}}))
    sys.exit(130)
"""
SOURCES = {"gives": GIVES, "fails": FAILS, "waits": WAITS}


Make = Callable[..., tuple[Bench, Effort]]


@pytest.fixture
def bench(tmp_path: Path) -> Make:
    """Make a bench of a program's source, which may take so many seconds."""

    def make(name: str, seconds: float = PATIENCE_S) -> tuple[Bench, Effort]:
        program = tmp_path / f"{name}.py"
        program.write_text(SOURCES[name.rstrip("0123456789")])
        effort = Effort(QUICK, (), seconds)
        made = Bench(name, f"Title of {name}", str(program), "no weights", effort, effort)
        return made._replace(tables=(Table("rows"),)), effort

    return make


def results(run: Run) -> dict[str, str]:
    return {name: one.state for name, one in load(run.out).items()}


def test_a_bench_that_fails_is_a_line_of_the_page_and_the_others_go_on(
    tmp_path: Path, bench: Make
) -> None:
    names = ("gives1", "fails", "gives2")
    run = Run([bench(name) for name in names], tmp_path / "out", False, 1.0)
    assert run_all(run) == 1
    assert results(run) == {"fails": "failed", "gives1": "done", "gives2": "done"}
    page = (run.out / pages.PAGE).read_text(encoding="utf-8")
    assert "2 of 3 benches are done" in page
    assert "fails: failed (exit code 1: there is no such thing)" in page
    assert re.search(r"\| b +\| +2\.500 \|", page)
    assert "no weights" in page


def test_a_bench_that_takes_too_long_is_ended_with_all_that_it_started(
    tmp_path: Path, bench: Make
) -> None:
    run = Run([bench("waits", 1.0), bench("gives")], tmp_path / "out", False, 1.0)
    assert run_all(run) == 1
    assert results(run) == {"waits": "timed out", "gives": "done"}
    child = int((run.out / "waits.log").read_text(encoding="utf-8"))
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
    # What it had by then is kept, and shown as what it is.
    page = (run.out / pages.PAGE).read_text(encoding="utf-8")
    assert "3.500" in page
    assert "**Timed out**: it had not ended after 1 s; what it had by then is below." in page


PROGRAM = """
import sys
from pathlib import Path
from suite.benches import Bench, Effort
from suite.command import Run, run_all
from suite.show import Table

place = Path(sys.argv[1])
effort = Effort("quick", (), 600.0)
rows = (Table("rows"),)
programs = {"gives": "gives.py", "waits": "waits.py", "gives0": "gives.py"}
benches = [
    (Bench(name, name, str(place / program), "", effort, effort, rows), effort)
    for name, program in programs.items()
]
sys.exit(run_all(Run(benches, place / "out", "--resume" in sys.argv, 1.0)))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_keeps_what_it_has_and_is_resumed(
    tmp_path: Path, bench: Make, number: signal.Signals, code: int
) -> None:
    bench("gives")
    bench("waits")
    argv = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'ops' / 'bench'}"}
    running = subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True)
    out, ends_s = tmp_path / "out", time.monotonic() + PATIENCE_S
    while not (log := out / "waits.log").exists() or not log.read_text(encoding="utf-8"):
        assert time.monotonic() < ends_s
        assert running.poll() is None
        time.sleep(0.02)
    running.send_signal(number)
    said = running.communicate(timeout=PATIENCE_S)[1]
    assert running.returncode == code, said
    assert "1 done, 1 stopped, 1 not run" in said
    page = (out / pages.PAGE).read_text(encoding="utf-8")
    assert "1.500" in page  # of the first
    assert "3.500" in page  # of the second, by then
    assert "Missing, as the run has not come to them: gives0." in page
    began = load(out)["gives"].took_s
    (tmp_path / "waits.py").write_text(GIVES)
    again = subprocess.run(
        [*argv, "--resume"], env=environment, capture_output=True, timeout=PATIENCE_S, check=False
    )
    assert again.returncode == 0, again.stderr
    assert {one.state for one in load(out).values()} == {"done"}
    assert load(out)["gives"].took_s == began


def result(name: str, figures: object, **host: str) -> Result:
    return Result(
        bench=name,
        effort=FULL,
        state="done",
        arguments=(),
        began="2026-01-01 00:00",
        took_s=1.0,
        load=(0.0, 0.0),
        host=host,
        figures=figures,
    )


def test_what_is_published_has_its_charts_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PUBLISHED", tmp_path / "docs" / "figures.md")
    monkeypatch.setattr(pages, "CHARTS", tmp_path / "docs" / "figures")
    (tmp_path / "docs").mkdir()
    with pytest.raises(FileNotFoundError):
        pages.publish(tmp_path)
    rates = {"wanwu": {"images_per_s": 6.0}, "bare loop": {"images_per_s": 6.5}}
    figures = {"contenders": rates, "model": "of trained weights"}
    save(result("compare", figures, processor="a new one", commit="1"), tmp_path)
    rows = {"rows": [{"labels": 6, "ms": 1.0}]}
    save(result("labels", rows, processor="an old one", commit="1"), tmp_path)
    save(result("memory", rows, processor="an old one", commit="2"), tmp_path)
    page = pages.publish(tmp_path).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((figures/\S+?)\)", page):
        assert (tmp_path / "docs" / target).stat().st_size > 0
    assert "](figures/compare.png)" in page
    # Two machines are not taken for one.
    assert "Of compare." in page
    assert "Of labels, memory." in page
    assert " 1, 2 |" in page
    assert "of trained weights" in page


def test_a_busy_machine_is_named_before_its_figures(tmp_path: Path) -> None:
    quiet, busy = result("labels", {"ms": 1.0}, cores="2"), result("memory", {"ms": 1.0}, cores="2")
    save(quiet, tmp_path)
    save(msgspec.structs.replace(busy, load=(2.5, 3.0)), tmp_path)
    page = pages.write_page(tmp_path).read_text(encoding="utf-8")
    assert "are of little use: memory." in page


def test_figures_of_every_shape_are_shown() -> None:
    rows = {"alike": {"one": {"ms": 0.25, "cosine": 0.999612}, "two": {"ms": 1234.5}}}
    (table,) = tables(rows, [Table("alike")])
    assert "| two |" in table.replace("  ", "")
    assert "0.250" in table
    assert "0.999612" in table
    assert "1,234" in table
    (table,) = tables([{"what": "write", "s": 2, "cpu": {"user": 1.0}}], [Table()])
    assert "cpu user" in table
    assert "| write |" in table
    (table,) = tables({"paths": 20000, "peak": {"mb": None}}, [Table()])
    assert "20,000" in table
    # A bench that nobody has listed: what has rows is a table of its own.
    found = list(tables({"paths": 2, "rows": [{"workers": 1, "ms": 0.0}]}, [Table()]))
    assert len(found) == 2
    assert "| paths |      2 |" in found[0]
    assert found[1].startswith("rows:")
    assert "| workers 1 |  0 |" in found[1]
    assert not list(tables({"other": 1}, [Table("alike")]))[:-1]
    assert not bars({"figures": []}, Chart("figures", "ms", ""), Path("never.png"), "")


@pytest.mark.parametrize("one", BENCHES, ids=lambda one: one.name)
def test_every_bench_knows_the_options_that_it_is_run_with(one: Bench) -> None:
    for effort in filter(None, (one.quick, one.full)):
        if one.program == "worker bench":
            context = click.Context(worker_bench, info_name="bench")
            worker_bench.make_parser(context).parse_args([*effort.arguments, "--json", "x"])
            continue
        text = (ROOT / "ops" / "bench" / one.program).read_text(encoding="utf-8")
        wanted = {"--json", *re.findall(r"--[a-z]+", " ".join(effort.arguments))}
        wanted |= {"--photos"} if one.takes_photos else set()
        assert all(f'"{option}"' in text for option in wanted), wanted
        assert effort.timeout_s > 0


def test_a_new_program_that_hands_over_figures_is_run_in_full_without_being_listed() -> None:
    programs = {one.program for one in all_benches().values()}
    written = {
        file.name
        for file in (ROOT / "ops" / "bench").glob("*.py")
        if '"--json"' in file.read_text(encoding="utf-8")
    }
    assert written <= programs
    assert all(one.full for one in all_benches().values())


def test_benches_are_chosen_by_name() -> None:
    assert [one.name for one in chosen(("labels", "compare"), (), QUICK)] == ["compare", "labels"]
    quick = [one.name for one in chosen((), ("compare",), QUICK)]
    assert "compare" not in quick
    assert "soak" not in quick
    # Whoever names it has it, however long it is.
    assert [one.name for one in chosen(("soak",), (), QUICK)] == ["soak"]


@pytest.mark.parametrize("argv", [[], ["--quick", "--only", "nonsense"], ["--quick", "--full"]])
def test_wrong_usage_runs_nothing(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        main([*argv, "--out", str(tmp_path / "out")])
    assert error.value.code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["/proc/nope", "file", "file/below"])
def test_a_place_that_takes_no_files_is_wrong_usage(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(SystemExit) as error:
        main(["--quick", "--only", "labels", "--out", str(tmp_path / place)])
    assert error.value.code == 2
    assert f"--out cannot be used: {tmp_path / place}: " in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "kept"


def test_a_file_of_another_form_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(json.dumps({"bench": "other"}))
    save(result("labels", None), tmp_path)
    (tmp_path / "copy.json").write_bytes(msgspec.json.encode(result("labels", None)))
    assert list(load(tmp_path)) == ["labels"]
