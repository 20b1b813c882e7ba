"""Results in a directory -> one page in Markdown with its charts: whatever there is by now."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from math import inf
from pathlib import Path
from typing import Final

from tables import markdown

from suite.benches import FULL, QUICK, Bench, all_benches
from suite.host import ROOT
from suite.results import Result, load, write_whole
from suite.show import bars, tables

PAGE: Final = "page.md"
PUBLISHED: Final = ROOT / "ops" / "docs" / "figures.md"
CHARTS: Final = PUBLISHED.with_suffix("")
_CHART: Final = ".png"
_COMMIT: Final = "commit"
_INTRODUCTION: Final = """\
# Figures

Written by `ops/bench/all`; how to read them is in [performance](performance.md). Each table says of
which weights it is, and each ratio comes from subjects that took turns in one run. Load is the
machine's load average over a minute: before a bench, a quiet machine has next to none."""


def write_page(directory: Path, wanted: Sequence[Bench] = ()) -> Path:
    """Write the page of all results in a directory, and their charts; return the page.

    `wanted` are the benches of this run: those without a result are named as missing.
    """
    results = load(directory)
    page = directory / PAGE
    write_whole(page, _page(directory, results, wanted).encode())
    return page


def publish(directory: Path) -> Path:
    """Put the page and its charts among the documents; return the page.

    Raises:
        FileNotFoundError: there is no result in the directory.
    """
    results = load(directory)
    if not results:
        msg = f"there are no results in {directory}"
        raise FileNotFoundError(msg)
    page = _page(directory, results, charts=f"{CHARTS.name}/")
    shutil.rmtree(CHARTS, ignore_errors=True)
    CHARTS.mkdir()
    for chart in sorted(directory.glob(f"*{_CHART}")):
        if chart.stem in results:
            shutil.copyfile(chart, CHARTS / chart.name)
    write_whole(PUBLISHED, page.encode())
    return PUBLISHED


def _page(
    directory: Path, results: dict[str, Result], wanted: Sequence[Bench] = (), charts: str = ""
) -> str:
    known = all_benches() | {one.name: one for one in wanted}
    # In the order of the list; a bench that is no more is shown no more.
    shown = {name: results[name] for name in known if name in results}
    standing = _standing(shown, [one.name for one in wanted])
    parts = [_INTRODUCTION, standing, *_machines(shown), _overview(known, shown)]
    for name, result in shown.items():
        parts += _section(known[name], result, directory, charts)
    return "\n\n".join(filter(None, parts)) + "\n"


def _standing(results: dict[str, Result], wanted: Sequence[str]) -> str:
    """Return what is done and what is not, in a paragraph."""
    done = [name for name, one in results.items() if one.is_done]
    lines = [f"{len(done)} of {len({*results, *wanted})} benches are done."]
    lines += [f"{name}: {one.state} ({one.reason})." for name, one in results.items() if one.reason]
    if busy := [name for name, one in results.items() if one.load[0] > _cores(one)]:
        lines.append(
            "Other programs kept all cores busy before these: their times, and what follows from "
            f"them, are of little use: {', '.join(busy)}."
        )
    if missing := [name for name in wanted if name not in results]:
        lines.append(f"Missing, as the run has not come to them: {', '.join(missing)}.")
    if any(one.effort == QUICK for one in results.values()):
        lines.append(
            "Quick runs show that all works, and the size of things; "
            f"what is to be relied on comes from `ops/bench/all --{FULL}`."
        )
    return "\n".join(lines)


def _cores(result: Result) -> float:
    """Return the cores of the machine of a result; infinite if it does not say."""
    cores = result.host.get("cores", "").split()
    return float(cores[0]) if cores else inf


def _machines(results: dict[str, Result]) -> Iterator[str]:
    """Yield a table for each machine and its versions that figures come from; mostly it is one."""
    groups: dict[frozenset[tuple[str, str]], list[Result]] = {}
    for one in results.values():
        machine = frozenset(pair for pair in one.host.items() if pair[0] != _COMMIT)
        groups.setdefault(machine, []).append(one)
    for number, group in enumerate(groups.values(), 1):
        yield "## Machine and versions" + (f", {number} of {len(groups)}" if number > 1 else "")
        if len(groups) > 1:
            yield f"Of {', '.join(one.bench for one in group)}."
        commits = dict.fromkeys(one.host.get(_COMMIT, "") for one in group)
        host = group[0].host | {_COMMIT: ", ".join(commits)}
        yield markdown(["", "what it is"], [[*pair] for pair in host.items()])


def _overview(known: dict[str, Bench], results: dict[str, Result]) -> str:
    heads = [
        "bench",
        "weights",
        "run",
        "began, UTC",
        "took, s",
        "CPU, s",
        "load before",
        "after",
        "state",
    ]
    rows = [
        [
            f"[{known[name].title}](#{_anchor(known[name].title)})",
            known[name].weights,
            one.effort,
            one.began,
            f"{one.took_s:.0f}",
            f"{one.cpu_s:.0f}" if one.cpu_s else "",
            *(f"{load:.1f}" for load in one.load),
            one.state,
        ]
        for name, one in results.items()
    ]
    return f"## Runs\n\n{markdown(heads, rows)}" if rows else ""


def _section(bench: Bench, result: Result, directory: Path, charts: str) -> Iterator[str]:
    """Yield the heading of a bench, its command, tables and chart."""
    yield f"## {bench.title}"
    yield f"`{bench.typed(result.arguments)}`. Weights: {bench.weights}."
    if not result.is_done:
        kept = "what it had by then is below" if result.figures else "it left no figures"
        yield f"**{result.state.capitalize()}**: {result.reason}; {kept}."
    if not result.figures:
        return
    yield from tables(result.figures, bench.tables)
    chart = directory / f"{bench.name}{_CHART}"
    if bench.chart and bars(result.figures, bench.chart, chart, bench.title):
        yield f"![{bench.title}: {bench.chart.scale}]({charts}{chart.name})"


def _anchor(heading: str) -> str:
    """Return the anchor of a heading, as GitHub makes it."""
    kept = "".join(letter for letter in heading.lower() if letter.isalnum() or letter in "-_ ")
    return kept.replace(" ", "-")
