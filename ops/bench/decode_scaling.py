"""Decode photographs on 1, 2, 4 ... cores, in processes and on threads: what scales, what does not.

    python ops/bench/decode_scaling.py [--photos DIR] [--cores 1,2,4,8,16] [--kind KIND ...]
                                       [--exact] [--seconds 4] [--rounds 3] [--json FILE]

As a worker decodes, without queue and model; it and its decoders may use so many cores, and one
core has one decoder. Physical cores come before their second threads. All rows take turns, each
for some seconds. The first table has images a second, times one core, the same from the CPU that
an image takes (which others on a busy machine hardly change), and how long decoders had nothing to
do. The second has what one image costs: CPU in user and kernel mode, waits for a core, page faults,
context switches, interrupts between cores (TLB shootdowns, of the whole machine), and CPU of the
worker's own process, which hands out the images and limits all decoders together.

Then what one image costs on one core, part by part, and how many GB/s the cores can copy beside
what decoding moves. Without `--photos` the photographs are made up, of camera size.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import msgspec
import numpy as np
from decode_parts import Part, parts
from decode_processes import KINDS, decode_all
from kernel_counts import Counts, counts, shootdowns
from photos import find_photos
from PIL import Image
from tables import markdown

from worker.artifact.manifest import open_artifact
from worker.bench.report import machine
from worker.contract.settings import Settings
from worker.images.decoder import Decoder
from worker.images.isolated.fork_server import fork_early
from worker.images.open_decoder import open_decoder
from worker.malloc import disable_malloc_trim

_CORES: Final = (1, 2, 4, 8, 16, 32)
# As many a decoder as a worker holds.
_HELD: Final = 4
_WARM_S: Final = 0.5
_COPIED_BYTES: Final = 64 * 1024 * 1024
_COPY_S: Final = 1.0
# Whatever its mode, but for grey ones.
_PILLOW_PIXEL_BYTES: Final = 4
_MEGA: Final = 1e6


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of decoder on so many cores; all but the rate is of one image."""

    kind: str
    cores: int
    physical: int
    images_per_s: float
    decoders: Counts
    worker: Counts
    shootdowns: float

    @property
    def cost(self) -> Counts:
        """What decoding costs: in processes of its own, or in the worker's."""
        return self.decoders if self.kind == "processes" else self.worker

    @property
    def idle(self) -> float:
        """For what share of the time a decoder neither worked nor waited for a core."""
        had_ms = 1000 * self.cores / self.images_per_s
        return max(0.0, 1 - (self.cost.cpu_ms + self.cost.waited_ms) / had_ms)


def in_order(cpus: Sequence[int]) -> list[int]:
    """Return logical CPUs, the first thread of every physical core before the second of any."""
    seen: dict[str, int] = {}
    ranked = []
    for cpu in sorted(cpus):
        core = _core_of(cpu)
        ranked.append((seen.get(core, 0), cpu))
        seen[core] = seen.get(core, 0) + 1
    return [cpu for _, cpu in sorted(ranked)]


def _core_of(cpu: int) -> str:
    file = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return file.read_text(encoding="ascii")
    except OSError:
        return str(cpu)


def measure(
    kind: str, cpus: Sequence[int], paths: Sequence[str], seconds: float, *, exact: bool
) -> Row:
    """Return a row. To be called in a process of its own: it stays on these CPUs."""
    os.sched_setaffinity(0, cpus)
    wanted = {"decode_threads": len(cpus), "decode": "exact" if exact else "fast"}
    settings = Settings.from_env({}, image_roots=("/",), decoder=kind, **wanted)
    disable_malloc_trim()
    if kind == "processes":
        fork_early()
    decoder = open_decoder(settings, open_artifact().manifest, lambda: None)
    decoder.launch()
    decoder.start()
    try:
        return _measured(decoder, kind, cpus, paths, seconds)
    finally:
        decoder.stop()


def _measured(
    decoder: Decoder, kind: str, cpus: Sequence[int], paths: Sequence[str], seconds: float
) -> Row:
    held = len(cpus) * _HELD
    decode_all(decoder, paths, _WARM_S, held)
    this, others = [os.getpid()], _children()
    before, interrupts = (counts(this), counts(others)), shootdowns()
    began_s = time.perf_counter()
    rate = decode_all(decoder, paths, seconds, held)
    images = round(rate * (time.perf_counter() - began_s))
    return Row(
        kind=kind,
        cores=len(cpus),
        physical=len({_core_of(cpu) for cpu in cpus}),
        images_per_s=rate,
        worker=counts(this).since(before[0], images),
        decoders=counts(others).since(before[1], images),
        shootdowns=(shootdowns() - interrupts) / images,
    )


def _children() -> list[int]:
    """Return the decode processes: children of the process that this one has started."""
    import psutil  # noqa: PLC0415 - of the tests' requirements

    return [child.pid for child in psutil.Process().children(recursive=True)]


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


def alone(work: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Return what a function returns in a new process, which has everything loaded already."""
    return _begun(work, *args, **options)()


def _begun(work: Callable[..., Any], *args: Any, **options: Any) -> Callable[[], Any]:
    """Begin a function in a new process; return what waits for its result."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=lambda: theirs.send(work(*args, **options)))
    child.start()
    theirs.close()

    def wait() -> Any:
        try:
            return ours.recv()
        finally:
            child.join()

    return wait


def bandwidth(cpus: Sequence[int]) -> float:
    """Return how many GB/s so many processes copy at once."""
    waits = [_begun(copy_gb_per_s, cpu) for cpu in cpus]
    return float(sum(wait() for wait in waits))


def middle(rows: Sequence[Row]) -> Row:
    """Return the row of the median rate."""
    return sorted(rows, key=lambda row: row.images_per_s)[len(rows) // 2]


def rates_table(rows: Sequence[Row], found: dict[tuple[str, int], list[Row]]) -> str:
    """Return how fast the rows are, and how much more so than on one core."""
    heads = (
        *("decoders", "cores", "physical", "images/s", "from - to", "times one core"),
        *("by their CPU", "idle"),
    )
    ones = {row.kind: row for row in rows if row.cores == 1}
    body = []
    for row in rows:
        rates = [turn.images_per_s for turn in found[row.kind, row.cores]]
        one = ones.get(row.kind, row)
        body.append(
            (
                *(row.kind, str(row.cores), str(row.physical), f"{row.images_per_s:.1f}"),
                f"{min(rates):.1f} - {max(rates):.1f}",
                f"{row.images_per_s / one.images_per_s:.2f}",
                f"{row.cores / one.cores * one.cost.cpu_ms / row.cost.cpu_ms:.2f}",
                f"{row.idle:.1%}",
            )
        )
    return markdown(heads, body)


def costs_table(rows: Sequence[Row]) -> str:
    """Return what an image costs in each row."""
    heads = (
        *("decoders", "cores", "user ms", "kernel ms", "waited ms", "faults", "switches"),
        *("shootdowns", "worker ms"),
    )
    body = []
    for row in rows:
        cost = row.cost
        body.append(
            (
                *(row.kind, str(row.cores), f"{cost.user_ms:.2f}", f"{cost.system_ms:.2f}"),
                *(f"{cost.waited_ms:.2f}", f"{cost.faults:.0f}", f"{cost.switches:.1f}"),
                f"{row.shootdowns:.1f}",
                f"{row.worker.cpu_ms:.2f}" if row.kind == "processes" else "",
            )
        )
    return markdown(heads, body)


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


def run(options: argparse.Namespace, paths: Sequence[str]) -> tuple[list[Row], str]:
    """Measure all rows in turns; return the middle ones, and their tables."""
    cpus = in_order(list(os.sched_getaffinity(0)))
    wanted = [number for number in options.cores if number <= len(cpus)]
    found: dict[tuple[str, int], list[Row]] = {}
    for turn in range(options.rounds):
        for kind in options.kind or KINDS:
            for number in wanted:
                chosen = cpus[:number]
                row = alone(measure, kind, chosen, paths, options.seconds, exact=options.exact)
                found.setdefault((kind, number), []).append(row)
                sys.stderr.write(f"round {turn + 1}: {kind} on {number}: {row.images_per_s:.1f}\n")
    rows = [middle(one) for one in found.values()]
    return rows, f"{rates_table(rows, found)}\n\n{costs_table(rows)}"


def memory(rows: Sequence[Row], paths: Sequence[str], *, exact: bool) -> list[dict[str, float]]:
    """Return, for each number of cores, GB/s that they copy, and that the best row needs."""
    cpus = in_order(list(os.sched_getaffinity(0)))
    image_mb = traffic_mb(paths, exact=exact)
    return [
        {
            "cores": number,
            "copied_gb_per_s": bandwidth(cpus[:number]),
            "needed_gb_per_s": image_mb
            / 1000
            * max(row.images_per_s for row in rows if row.cores == number),
        }
        for number in sorted({row.cores for row in rows})
    ]


def main() -> None:
    """Run the benchmark as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, metavar="DIR", help="photographs, else made up")
    parser.add_argument("--cores", type=_numbers, default=_CORES, help="those that are here")
    parser.add_argument("--kind", choices=KINDS, action="append", help="both by default")
    parser.add_argument("--exact", action="store_true", help="decode JPEGs at their whole size")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        paths, what = find_photos(options.photos, Path(name))
        rows, text = run(options, paths)
        pieces = alone(parts, paths, fast=not options.exact)
        copied = memory(rows, paths, exact=options.exact)
    print(f"{what}; {machine()}\n\n{text}\n")
    print(markdown(("part", "ms", "faults"), [_piece(name, one) for name, one in pieces.items()]))
    print(
        f"\n{markdown(('cores', 'copy GB/s', 'decoding needs'), [_memory(one) for one in copied])}"
    )
    print(f"\n{_ceiling(rows)}")
    if options.json:
        report = {
            "photographs": what,
            "machine": machine(),
            "rows": [msgspec.to_builtins(row) for row in rows],
            "parts": {name: one._asdict() for name, one in pieces.items()},
            "memory": copied,
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _piece(name: str, one: Part) -> tuple[str, str, str]:
    return name, f"{one.ms:.2f}", f"{one.faults:.0f}"


def _memory(one: dict[str, float]) -> tuple[str, str, str]:
    return f"{one['cores']:.0f}", f"{one['copied_gb_per_s']:.1f}", f"{one['needed_gb_per_s']:.2f}"


def _ceiling(rows: Sequence[Row]) -> str:
    """Return how fast the process that gives out the images can be: its Python uses one core."""
    costs = [one.worker.cpu_ms for one in rows if one.kind == "processes"]
    if not costs:
        return ""
    return (
        f"The worker's own process spends {max(costs):.2f} ms on an image: decode processes can "
        f"bring it {1000 / max(costs):,.0f} images/s."
    )


if __name__ == "__main__":
    main()
