"""Decode photographs on 1, 2, 4 ... cores, in processes and on threads: what scales, what does not.

    python ops/bench/decode_scaling.py [--photos DIR] [--cores 1,2,4,8,16] [--kind KIND ...]
                                       [--exact] [--seconds 4] [--rounds 3] [--json FILE]
    python ops/bench/decode_scaling.py --pretend 12 --decoders 16,32 [...]

As a worker decodes, without queue and model; it and its decoders may use so many cores, and one
core has one decoder. Physical cores come before their second threads. All rows take turns, each
for some seconds. The first table has images a second, times one core, the same from the CPU that
an image takes (which others on a busy machine hardly change), and how long decoders had nothing to
do. The second has what one image costs: CPU in user and kernel mode, waits for a core, page faults,
context switches, interrupts between cores (TLB shootdowns, of the whole machine), and CPU of the
worker's own process, which hands out the images and limits all decoders together.

Then what one image costs on one core, part by part, and how many GB/s the cores can copy beside
what decoding moves. Without `--photos` the photographs are made up, of camera size.

With `--pretend` decoders sleep for so many milliseconds in place of decoding: any number of them
can be had on few cores, and what they stand idle is what handing out images costs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import msgspec
import numpy as np
from decode_parts import parts
from decode_processes import KINDS
from decode_row import PROCESSES, Case, Row, begun, in_new_process, in_order, measure, physical
from photos import find_photos
from PIL import Image
from tables import markdown

from worker.artifact.manifest import open_artifact
from worker.bench.report import machine

_CORES: Final = (1, 2, 4, 8, 16, 32)
_COPIED_BYTES: Final = 64 * 1024 * 1024
_COPY_S: Final = 1.0
# Whatever its mode, but for grey ones.
_PILLOW_PIXEL_BYTES: Final = 4
_MEGA: Final = 1e6


def cases(options: argparse.Namespace) -> list[Case]:
    """Return what is to be measured: of the numbers of cores wanted, those that are here."""
    cpus = in_order(list(os.sched_getaffinity(0)))
    numbers = options.decoders or [number for number in options.cores if number <= len(cpus)]
    return [
        Case(
            kind=kind,
            decoders=number,
            cpus=tuple(cpus if options.decoders else cpus[:number]),
            seconds=options.seconds,
            exact=options.exact,
            pretend_ms=options.pretend,
        )
        for kind in options.kind or ((PROCESSES,) if options.pretend else KINDS)
        for number in numbers
    ]


def run(wanted: Sequence[Case], paths: Sequence[str], rounds: int) -> list[list[Row]]:
    """Measure all cases in turns; return the rows of each, the slowest first."""
    found: list[list[Row]] = [[] for _ in wanted]
    for turn in range(rounds):
        for case, rows in zip(wanted, found, strict=True):
            row: Row = in_new_process(measure, case, paths)
            rows.append(row)
            what = f"{case.kind}, {case.decoders}: {row.images_per_s:.1f}"
            sys.stderr.write(f"round {turn + 1}, {what} images/s\n")
    return [sorted(rows, key=lambda row: row.images_per_s) for rows in found]


def middle(rows: Sequence[Row]) -> Row:
    """Return the row of the median rate."""
    return rows[len(rows) // 2]


def rates_table(found: Sequence[Sequence[Row]]) -> str:
    """Return how fast the rows are, and how much more so than one decoder."""
    heads = (
        *("kind", "decoders", "cores", "physical", "images/s", "from - to"),
        *("times one", "by their CPU", "idle"),
    )
    ones = {rows[0].case.kind: middle(rows) for rows in found if rows[0].case.decoders == 1}
    body = []
    for rows in found:
        row = middle(rows)
        case, one = row.case, ones.get(row.case.kind)
        times, by_cpu = "", ""
        if one:
            times = f"{row.images_per_s / one.images_per_s:.2f}"
            by_cpu = f"{case.decoders * one.cost.cpu_ms / row.cost.cpu_ms:.2f}"
        body.append(
            (
                *(case.kind, str(case.decoders), str(len(case.cpus)), str(physical(case.cpus))),
                f"{row.images_per_s:.1f}",
                f"{rows[0].images_per_s:.1f} - {rows[-1].images_per_s:.1f}",
                *(times, by_cpu, f"{row.idle:.1%}"),
            )
        )
    return markdown(heads, body)


def costs_table(found: Sequence[Sequence[Row]]) -> str:
    """Return what an image costs in each case."""
    heads = (
        *("kind", "decoders", "user ms", "kernel ms", "waited ms", "faults", "switches"),
        *("shootdowns", "worker ms"),
    )
    body = []
    for row in map(middle, found):
        cost = row.cost
        body.append(
            (
                *(row.case.kind, str(row.case.decoders)),
                *(f"{cost.user_ms:.2f}", f"{cost.system_ms:.2f}", f"{cost.waited_ms:.2f}"),
                *(f"{cost.faults:.0f}", f"{cost.switches:.1f}", f"{row.shootdowns:.1f}"),
                f"{row.worker.cpu_ms:.2f}" if row.case.kind == PROCESSES else "",
            )
        )
    return markdown(heads, body)


def ceiling(found: Sequence[Sequence[Row]]) -> str:
    """Return how fast the process that hands out the images can be: its Python uses one core."""
    costs = [one.worker.cpu_ms for one in map(middle, found) if one.case.kind == PROCESSES]
    if not costs:
        return ""
    return (
        f"The worker's own process spends {max(costs):.2f} ms on an image: decode processes can "
        f"bring it {1000 / max(costs):,.0f} images/s."
    )


def copy_gb_per_s(cpu: int) -> float:
    """Return what one process copies, read and written bytes together; in a process of its own."""
    os.sched_setaffinity(0, [cpu])
    source = np.ones(_COPIED_BYTES, np.uint8)
    target = np.zeros_like(source)
    copied, began_s = 0, time.perf_counter()
    while (took_s := time.perf_counter() - began_s) < _COPY_S:
        np.copyto(target, source)
        copied += 2 * _COPIED_BYTES
    return copied / took_s / 1e9


def memory(found: Sequence[Sequence[Row]], image_mb: float) -> list[dict[str, float]]:
    """Return, for each number of cores, GB/s that they copy, and that the fastest row needs."""
    used: dict[tuple[int, ...], float] = {}
    for row in map(middle, found):
        used[row.case.cpus] = max(row.images_per_s, used.get(row.case.cpus, 0.0))
    report = []
    for cpus, rate in used.items():
        waits = [begun(copy_gb_per_s, cpu) for cpu in cpus]
        copied = sum(wait() for wait in waits)
        report.append(
            {
                "cores": len(cpus),
                "copied_gb_per_s": copied,
                "needed_gb_per_s": rate * image_mb / 1e3,
            }
        )
    return report


def traffic_mb(paths: Sequence[str], *, exact: bool) -> float:
    """Return how many MB an image moves at least: its file, and its pixels written and read."""
    spec = open_artifact().manifest.preprocessing
    side = 2 * max(spec.height, spec.width, spec.edge or 0)
    moved = []
    for path in paths:
        with Image.open(path) as image:
            if not exact:
                image.draft(None, (side, side))
            pixels = image.width * image.height
        moved.append(Path(path).stat().st_size + 2 * _PILLOW_PIXEL_BYTES * pixels)
    return fmean(moved) / _MEGA


def extras(
    found: Sequence[Sequence[Row]], paths: Sequence[str], *, exact: bool
) -> tuple[str, dict[str, Any]]:
    """Measure one image part by part, and memory; return both as tables and for JSON."""
    pieces = in_new_process(parts, paths, fast=not exact)
    copied = memory(found, traffic_mb(paths, exact=exact))
    text = markdown(
        ("part", "ms", "faults"),
        [(name, f"{one.ms:.2f}", f"{one.faults:.0f}") for name, one in pieces.items()],
    )
    text += "\n\n" + markdown(
        ("cores", "copy, GB/s", "decoding needs"),
        [
            (f"{one['cores']}", f"{one['copied_gb_per_s']:.1f}", f"{one['needed_gb_per_s']:.2f}")
            for one in copied
        ],
    )
    return text, {"parts": {name: one._asdict() for name, one in pieces.items()}, "memory": copied}


def as_json(row: Row) -> dict[str, Any]:
    """Return a row with the names of what was counted."""
    counted = {"decoders": row.decoders._asdict(), "worker": row.worker._asdict()}
    return {**msgspec.to_builtins(row), **counted, "idle": row.idle}


def arguments() -> argparse.Namespace:
    """Return the options of the command line."""

    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, metavar="DIR", help="photographs, else made up")
    parser.add_argument("--cores", type=numbers, default=_CORES, help="those that are here")
    parser.add_argument("--kind", choices=KINDS, action="append", help="both by default")
    parser.add_argument("--exact", action="store_true", help="decode JPEGs at their whole size")
    parser.add_argument("--pretend", type=float, default=0.0, metavar="MS", help="sleep so long")
    parser.add_argument("--decoders", type=numbers, help="so many, on all cores")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser.parse_args()


def main() -> None:
    """Run the benchmark as the command line says."""
    options = arguments()
    with tempfile.TemporaryDirectory() as name:
        paths, what = find_photos(options.photos, Path(name))
        found = run(cases(options), paths, options.rounds)
        report: dict[str, Any] = {"photographs": what, "machine": machine()}
        report["rows"] = [[as_json(row) for row in rows] for rows in found]
        print(f"{what}\n\n{rates_table(found)}\n\n{costs_table(found)}\n")
        if not options.pretend:
            text, figures = extras(found, paths, exact=options.exact)
            report |= figures
            print(f"{text}\n")
    print(ceiling(found))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
