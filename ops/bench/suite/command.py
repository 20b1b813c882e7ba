"""Run the benchmarks one after the other, and write one page of what they give.

    ops/bench/all --quick | --full [--only NAME ...] [--skip NAME ...] [--photos DIR]
                  [--out DIR] [--resume] [--publish]
    ops/bench/all --list
    ops/bench/all --publish [--out DIR]

DIR gets page.md with its charts, NAME.json with the figures of each bench as soon as it has ended,
and NAME.log with what it said; the page is written anew after each. A bench that fails, or does not
end in time, has a line in it, and the others go on. Ctrl-C or SIGTERM ends the run with a page of
what there is; `--resume` goes on with what is not done. `--publish` puts the page among the
documents, as ops/docs/figures.md. Quick takes some ten minutes on two idle cores, full takes hours.

Exit codes: 0 all are done; 1 some failed; 2 wrong usage; 130 or 143 stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final, NamedTuple

from suite.benches import FULL, QUICK, Bench, Effort, all_benches, chosen
from suite.host import ROOT, facts
from suite.page import publish, write_page
from suite.process import run_bench
from suite.results import Result, forget, load, save
from worker.contract.stops import Stopped, stoppable

OUT: Final = ROOT / "build" / "bench"
_SOME_FAILED: Final = 1


class Run(NamedTuple):
    """What is to be run, and where to."""

    benches: list[tuple[Bench, Effort]]
    out: Path
    resumes: bool
    patience: float

    @property
    def names(self) -> list[str]:
        """The names of its benches, in order."""
        return [bench.name for bench, _ in self.benches]


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line says; return the exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.list:
        print(_listed())
        return 0
    effort = QUICK if options.quick else FULL if options.full else ""
    if not effort and not options.publish:
        parser.error("choose --quick or --full")
    code = 0
    if effort:
        try:
            run = _run_of(options, effort)
        except KeyError as e:
            parser.error(f"there is no bench {e.args[0]}: see --list")
        if problem := _problem(run.out):
            parser.error(f"--out cannot be used: {problem}")
        code = run_all(run)
    if options.publish:
        try:
            _echo(f"published: {publish(options.out)}")
        except FileNotFoundError as e:
            parser.error(str(e))
    return code


def run_all(run: Run) -> int:
    """Run the benches in order; return the exit code. The page is there at any time."""
    run.out.mkdir(parents=True, exist_ok=True)
    results = load(run.out)
    if not run.resumes:
        for name in run.names:
            forget(name, run.out)
            results.pop(name, None)
    code = 0
    try:
        with stoppable():
            _run_each(run, results)
    except Stopped as e:
        code = e.exit_code
    page = write_page(run.out, [bench for bench, _ in run.benches])
    failed = [name for name in run.names if name in results and not results[name].is_done]
    _echo(f"{page}: {_summary(run, results)}")
    return code or (_SOME_FAILED if failed else 0)


def _problem(out: Path) -> str:
    """Make the directory; return why nothing can be written there, or ""."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out):
            return ""
    except OSError as e:
        return f"{out}: {e.strerror}"


def _run_each(run: Run, results: dict[str, Result]) -> None:
    host = facts()
    for number, (bench, effort) in enumerate(run.benches, 1):
        before = results.get(bench.name)
        if before and before.is_done and before.effort == effort.name:
            continue
        most_s = effort.timeout_s * run.patience
        _echo(f"[{number}/{len(run.benches)}] {bench.name}: up to {most_s / 60:.0f} minutes")
        result, stop = run_bench(bench, effort, run.out, host, run.patience)
        results[bench.name] = result
        save(result, run.out)
        _echo(f"    {result.state} after {result.took_s:.0f} s {result.reason}".rstrip())
        if stop is not None:
            raise stop
        write_page(run.out, [bench for bench, _ in run.benches])


def _summary(run: Run, results: dict[str, Result]) -> str:
    states = [results[name].state if name in results else "not run" for name in run.names]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def _run_of(options: argparse.Namespace, effort: str) -> Run:
    photos = ("--photos", str(options.photos.resolve())) if options.photos else ()
    benches = []
    for bench in chosen(tuple(options.only), tuple(options.skip), effort):
        # One that is asked for by name, and is too long to be quick, is run in full.
        found = bench.effort(effort) or bench.full
        more = photos if bench.takes_photos else ()
        benches.append((bench, found._replace(arguments=(*found.arguments, *more))))
    return Run(benches, options.out, options.resume, options.patience)


def _listed() -> str:
    lines = []
    for one in all_benches().values():
        efforts = [name for name in (QUICK, FULL) if one.effort(name)]
        lines.append(f"{one.name:20} {', '.join(efforts):12} {one.title}")
    return "\n".join(lines)


def _echo(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ops/bench/all",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument("--quick", action="store_true", help="small sizes, few rounds")
    effort.add_argument("--full", action="store_true", help="the sizes of the documents")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="run these alone")
    parser.add_argument("--skip", nargs="+", default=[], metavar="NAME", help="leave these out")
    parser.add_argument("--list", action="store_true", help="print the benches and end")
    parser.add_argument("--photos", type=Path, metavar="DIR", help="photographs, else made up")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="[build/bench]")
    parser.add_argument("--resume", action="store_true", help="run what is not done in DIR")
    parser.add_argument("--publish", action="store_true", help="put the page into ops/docs")
    parser.add_argument(
        "--patience", type=float, default=1.0, metavar="TIMES", help="longer ends, if it is busy"
    )
    return parser
