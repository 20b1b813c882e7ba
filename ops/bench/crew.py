"""Processes of a benchmark: started, waited for, accounted, and stopped at its end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

import psutil

from worker.contract.broker import make_app
from worker.contract.processes import start_child, stop_child
from worker.contract.settings import Settings

HERE: Final = Path(__file__).resolve().parent
WORKER: Final = ("-m", "worker.cli", "start")
START_TIMEOUT_S: Final = 300.0
STOP_GRACE_S: Final = 30.0
_MB: Final = 1e6
_KIB: Final = 1024


class Member:
    """A process with all its children, as the kernel accounts for them."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = psutil.Process(process.pid)

    def cpu_s(self) -> float:
        """Return the seconds of CPU, user and system, spent so far."""
        return sum(sum(one.cpu_times()[:2]) for one in self._family())

    def resident_mb(self) -> float:
        """Return what the processes hold now; pages that they share count once for each."""
        return sum(one.memory_info().rss for one in self._family()) / _MB

    def peak_mb(self) -> float:
        """Return the most that each process has held, added up."""
        return sum(_peak_kib(one.pid) for one in self._family()) * _KIB / _MB

    def _family(self) -> list[psutil.Process]:
        return [self._process, *self._process.children(recursive=True)]


def _peak_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


@contextmanager
def crew(
    url: str, size: int, argv: Sequence[str], environ: Mapping[str, str] | None = None
) -> Iterator[list[Member]]:
    """Start so many workers `python *argv` at the broker; yield once all answer Celery's ping.

    Raises:
        SystemExit: with its log, if one of them ends or they do not answer in time.
    """
    addresses = {"WANWU_BROKER_URL": url, "WANWU_RESULT_URL": ""}
    variables = {**os.environ, **addresses, **(environ or {})}
    with TemporaryFile() as log:
        children = [
            start_child(
                [sys.executable, *argv], env=variables, stdout=log, stderr=subprocess.STDOUT
            )
            for _ in range(size)
        ]
        try:
            _await(url, children)
        except TimeoutError as e:
            log.seek(0)
            words = f"{e}\n{log.read().decode(errors='replace')}"
            raise SystemExit(words) from e
        else:
            yield [Member(child) for child in children]
        finally:
            for child in children:
                child.terminate()
            for child in children:
                stop_child(child, STOP_GRACE_S)


def _await(url: str, children: list[subprocess.Popen[bytes]]) -> None:
    app = make_app(Settings(broker_url=url), stores_results=False)
    ends_s = time.monotonic() + START_TIMEOUT_S
    while len(app.control.ping(timeout=1.0, limit=len(children)) or ()) < len(children):
        if any(child.poll() is not None for child in children):
            msg = "a worker has ended before it began"
            raise TimeoutError(msg)
        if time.monotonic() > ends_s:
            msg = f"not all of {len(children)} workers came up in {START_TIMEOUT_S:.0f} s"
            raise TimeoutError(msg)
