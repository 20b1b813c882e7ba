"""Measure how long commands take to start, and what idle workers hold in memory.

    python ops/bench/starting.py [--rounds 5] [--other VENV] [--workers 8] [--model ARTIFACT]
                                 [--json FILE]

Whole processes are timed: from the moment in which a command is started to its end, to its first
record, or to the line in which a worker says that it is ready. With the environment of another
checkout (`--other ../old/.venv`) both take turns, and ratios are those of neighbours. On a busy
machine, CPU time says more than time does: it is that of the command and of all that it started.

Memory is that of one worker, and of several (`--workers`) on this host: resident, and as a share of
what several processes hold together (PSS), of the worker itself and of its decode processes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import IO, Any, Final, NamedTuple

import psutil
from tables import markdown

from worker.contract.local.redis_server import EmbeddedRedis

ROOT: Final = Path(__file__).resolve().parents[2]
PICTURES: Final = ROOT / "ops" / "examples"
TIMEOUT_S: Final = 180.0
_MB: Final = 1e6
_HELPS: Final = (
    "producer --help",
    "producer submit --help",
    "producer nonsense",
    "worker --help",
    "worker start --help",
)


class Cost(NamedTuple):
    """What a start took, in seconds: by the clock, and of all processors, by all its processes."""

    wall_s: float
    cpu_s: float


class Place(NamedTuple):
    """An environment with our commands, and how its figures are called."""

    name: str
    venv: Path

    def argv(self, command: str) -> list[str]:
        """Return a command as that environment has it."""
        program, *arguments = command.split()
        return [str(self.venv / "bin" / program), *arguments]


Measure = Callable[[Place], Cost]


@contextmanager
def started(argv: Sequence[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a running command; afterwards it has ended, by SIGTERM if need be."""
    clean = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON}
    with subprocess.Popen(  # noqa: S603 - our own commands
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**clean, **environment},
        cwd=ROOT,
        bufsize=0,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


# A start from bytecode is what users have; and nothing of ours may decide what is measured.
_NOT_PASSED_ON: Final = {"PYTHONDONTWRITEBYTECODE", "WANWU_BROKER_URL", "WANWU_MODEL"}


def cpu_s(process: psutil.Process) -> float:
    """Return what a process, its children and those that have ended have computed."""
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        try:
            total += sum(one.cpu_times()[:4])
        except psutil.Error:  # It has ended, and its parent has counted it.
            continue
    return total


def to_end(command: str, environment: dict[str, str]) -> Measure:
    """Return what measures a command from its start to its end."""

    def measure(place: Place) -> Cost:
        before, began_s = os.times(), time.monotonic()
        with started(place.argv(command), environment) as process:
            _read_all(process.stdout)
            process.wait(TIMEOUT_S)
            wall_s = time.monotonic() - began_s
        after = os.times()
        used_s = after.children_user + after.children_system
        return Cost(wall_s, used_s - before.children_user - before.children_system)

    return measure


def to_line(command: str, sign: bytes, environment: dict[str, str]) -> Measure:
    """Return what measures a command from its start to the first line that holds `sign`."""

    def measure(place: Place) -> Cost:
        began_s = time.monotonic()
        with started(place.argv(command), environment) as process:
            wait_for(process, sign)
            return Cost(time.monotonic() - began_s, cpu_s(psutil.Process(process.pid)))

    return measure


def wait_for(process: subprocess.Popen[bytes], sign: bytes) -> None:
    """Read until a line holds `sign`.

    Raises:
        SystemExit: the command has ended without.
    """
    seen = []
    for line in process.stdout or ():
        if sign in line:
            return
        seen.append(line)
    sys.exit(f"it ended too early: {b''.join(seen).decode(errors='replace')}")


def measures(url: str, model: str) -> dict[str, Measure]:
    """Return what is measured, by its name."""
    environment = {"WANWU_BROKER_URL": url}
    with_model = f" --model {model}" if model else ""
    return {
        **{command: to_end(command, {}) for command in _HELPS},
        "producer status": to_end("producer status", environment),
        "worker start, until ready": to_line(f"worker start{with_model}", _READY, environment),
        "submit --embedded, to the first record": to_line(
            f"producer submit {PICTURES} --embedded{with_model}", b'"path"', {}
        ),
    }


_READY: Final = b"worker.ready"


def in_turns(places: Sequence[Place], measure: Measure, rounds: int) -> dict[str, list[Cost]]:
    """Return the costs in each place; one turn before those that count fills the caches."""
    costs: dict[str, list[Cost]] = {place.name: [] for place in places}
    for turn in range(rounds + 1):
        for place in places if turn % 2 else places[::-1]:
            cost = measure(place)
            if turn:
                costs[place.name].append(cost)
    return costs


def memory(place: Place, url: str, model: str, workers: int) -> list[dict[str, float]]:
    """Start so many workers; return what each process of them holds, in MB, when all are ready."""
    command = f"worker start{f' --model {model}' if model else ''}"
    with ExitStack() as stack:
        processes = []
        for _ in range(workers):
            process = stack.enter_context(started(place.argv(command), {"WANWU_BROKER_URL": url}))
            wait_for(process, _READY)
            processes.append(psutil.Process(process.pid))
        return [
            {"worker": number, **_held(one)}
            for number, process in enumerate(processes)
            for one in (process, *process.children(recursive=True))
        ]


def _held(process: psutil.Process) -> dict[str, Any]:
    found = process.memory_full_info()
    name = Path(f"/proc/{process.pid}/comm").read_text(encoding="utf-8").strip()
    shared = found.rss - found.uss
    figures = {"resident": found.rss, "pss": found.pss, "own": found.uss, "shared": shared}
    return {"process": name, **{key: round(value / _MB, 1) for key, value in figures.items()}}


def table(costs: dict[str, dict[str, list[Cost]]], places: Sequence[Place]) -> str:
    """Return medians, and with two places the ratios of neighbours, as Markdown."""
    heads = ["", *(f"{place.name}, s (CPU)" for place in places)]
    if len(places) > 1:
        heads += ["ratio", "of CPU"]
    return markdown(heads, [[name, *_row(found, places)] for name, found in costs.items()])


def _row(found: dict[str, list[Cost]], places: Sequence[Place]) -> list[str]:
    sides = [found[place.name] for place in places]
    cells = [
        f"{median(c.wall_s for c in side):.2f} ({median(c.cpu_s for c in side):.2f})"
        for side in sides
    ]
    if len(sides) > 1:
        for field in Cost._fields:
            pairs = zip(*sides, strict=True)
            ratios = sorted(getattr(other, field) / getattr(ours, field) for other, ours in pairs)
            cells.append(f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    return cells


def _read_all(stream: IO[bytes] | None) -> None:
    while stream and stream.read(65536):
        pass


def main() -> None:
    """Measure, and print tables."""
    arguments = _arguments()
    places = [Place("this", Path(sys.prefix))]
    if arguments.other:
        places.insert(0, Place("other", arguments.other.absolute()))
    costs: dict[str, dict[str, list[Cost]]] = {}
    held: dict[str, list[dict[str, float]]] = {}
    with EmbeddedRedis() as server:
        for name, measure in measures(server.url, arguments.model).items():
            if arguments.only in name:
                costs[name] = in_turns(places, measure, arguments.rounds)
        if costs:
            print(table(costs, places), flush=True)
        for place in places if arguments.workers else ():
            held[place.name] = memory(place, server.url, arguments.model, arguments.workers)
    for name, rows in held.items():
        print(f"\n{name}: {sum(row['pss'] for row in rows):.0f} MB of {arguments.workers} workers")
        print(markdown(list(rows[0]), [[str(cell) for cell in row.values()] for row in rows]))
    if arguments.json:
        found = {"costs": costs, "memory": held}
        arguments.json.write_text(json.dumps(found, indent=1, ensure_ascii=False))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--other", type=Path, metavar="VENV", help="another environment")
    parser.add_argument("--workers", type=int, default=1, help="workers whose memory is measured")
    parser.add_argument("--model", default="", metavar="ARTIFACT")
    parser.add_argument("--only", default="", metavar="TEXT", help="starts whose name holds this")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
