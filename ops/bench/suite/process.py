"""A bench in a process of its own, which ends in time, and nothing of which stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psutil

from suite.benches import HERE, Bench, Effort
from suite.host import ROOT
from suite.results import Result, State
from worker.contract.local.subprocesses import start_child
from worker.contract.stops import Stopped

# Enough to remove what it made, and for `worker bench` to write what it has.
GRACE_S: Final = 30.0
_LONGEST_REASON: Final = 200


def run_bench(
    bench: Bench, effort: Effort, directory: Path, host: dict[str, str], patience: float = 1.0
) -> tuple[Result, Stopped | None]:
    """Run a bench to its end, or for as long as it may take; return what it gave.

    Its output goes to DIR/NAME.log. `patience` multiplies the time that it may take. A signal that
    asks to stop ends it early, and is returned beside the result, for the caller to raise again.
    """
    figures = directory / f".{bench.name}.figures"
    log = directory / f"{bench.name}.log"
    began, load = datetime.now(UTC), os.getloadavg()[0]
    began_s, cpu_s = time.monotonic(), _cpu_s()
    stop: Stopped | None = None
    try:
        state, reason = _run(bench.argv(effort, figures), log, effort.timeout_s * patience)
    except Stopped as e:
        state, reason, stop = "stopped", "stopped from outside", e
    found = _read(figures)
    if state == "done" and found is None:
        state, reason = "failed", "it wrote no figures"
    result = Result(
        bench=bench.name,
        effort=effort.name,
        state=state,
        reason=reason,
        arguments=effort.arguments,
        began=began.strftime("%Y-%m-%d %H:%M"),
        took_s=time.monotonic() - began_s,
        cpu_s=_cpu_s() - cpu_s,
        load=(load, os.getloadavg()[0]),
        host=host,
        figures=found,
    )
    return result, stop


def _run(argv: list[str], log: Path, timeout_s: float) -> tuple[State, str]:
    with log.open("wb") as output:
        child = start_child(
            argv,
            cwd=ROOT,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            code = child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return "timed out", f"it had not ended after {timeout_s:.0f} s"
        finally:
            _stop(child)
    return ("done", "") if code == 0 else ("failed", f"exit code {code}: {_last_line(log)}")


def _environment() -> dict[str, str]:
    """Return what a bench is started with: as a user has it, in English."""
    # Each start would compile anew what the first has compiled.
    dropped = {"PYTHONDONTWRITEBYTECODE", "PYTHONPATH"}
    # By which this package is found: to commands of ours, these modules would be those of others.
    paths = (one for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one)
    kept = os.pathsep.join(one for one in paths if Path(one).resolve() != HERE)
    found = {name: value for name, value in os.environ.items() if name not in dropped}
    return found | {"LC_ALL": "C.UTF-8"} | ({"PYTHONPATH": kept} if kept else {})


def _stop(child: subprocess.Popen[bytes]) -> None:
    """End a bench and all that it started: first as Ctrl-C does, so that it can clean up."""
    if child.poll() is not None:
        return
    family = []
    with suppress(psutil.NoSuchProcess):
        family = psutil.Process(child.pid).children(recursive=True)
    child.send_signal(signal.SIGINT)
    try:
        child.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for one in family:
        # Its number may be another's by now; psutil sees that.
        with suppress(psutil.NoSuchProcess):
            one.kill()


def _cpu_s() -> float:
    """Return the CPU time, user and system, of all processes of this one that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def _read(file: Path) -> Any:
    """Return the figures that were written, and remove their file."""
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    finally:
        file.unlink(missing_ok=True)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip()[:_LONGEST_REASON] if lines else "it said nothing"
