"""Worker processes of a benchmark: started, waited for, accounted, and stopped at its end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

import psutil
from celery import Celery

from worker.contract.local.subprocesses import start_child, stop_child
from worker.contract.queue.app import make_app
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings

HERE: Final = Path(__file__).resolve().parent
START_TIMEOUT_S: Final = 300.0
STOP_GRACE_S: Final = 30.0
_KIB: Final = 1024
_MIB: Final = 2**20
_MB: Final = 1e6


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Member:
    """Processes with all their children, mostly one, as the kernel accounts for them."""

    def __init__(self, *pids: int) -> None:
        self.pids: Final = pids
        self._processes = [psutil.Process(pid) for pid in pids]

    def cpu_s(self) -> float:
        """Return the seconds of CPU, user and system, spent so far."""
        return sum(sum(one.cpu_times()[:2]) for one in self._family())

    def resident_mb(self) -> float:
        """Return the memory that all are resident in now."""
        return sum(one.memory_info().rss for one in self._family()) / _MB

    def peak_mb(self) -> float:
        """Return the most memory that each has been resident in, summed: shared pages, too."""
        return sum(map(_peak_mb, self._family()))

    def held_mb(self) -> float:
        """Return the memory that all hold now: pages that several share are shared among them."""
        return sum(one.memory_full_info().pss for one in self._family()) / _MB

    def gpu_mb(self) -> float:
        """Return the memory of GPUs that they hold now, by NVIDIA's own account; 0 without one."""
        query = ("--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits")
        try:
            held = subprocess.run(  # noqa: S603 - no words from outside
                ("nvidia-smi", *query),  # noqa: S607 - wherever the driver put it
                capture_output=True,
                text=True,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError):
            return 0.0
        pids = {one.pid for one in self._family()}
        rows = (line.split(",") for line in held.stdout.splitlines())
        return sum(float(mib) * _MIB for pid, mib in rows if int(pid) in pids) / _MB

    def _family(self) -> list[psutil.Process]:
        return [
            member
            for process in self._processes
            for member in (process, *process.children(recursive=True))
        ]


def _peak_mb(process: psutil.Process) -> float:
    # psutil does not tell the peak of another process; the kernel does.
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii", errors="replace")
    fields = dict(line.partition(":")[::2] for line in status.splitlines())
    return int(fields["VmHWM"].split()[0]) * _KIB / _MB


@contextmanager
def worker_at(
    url: str, *argv: str, app: Celery | None = None, **variables: str
) -> Iterator[Member]:
    """Start the worker `python *argv` at the broker; yield once it answers Celery's ping.

    `variables` are set in its environment. It is pinged by ours unless it is of another `app`.

    Raises:
        SystemExit: with its log, if it ends or does not answer in time.
    """
    with workers_at(url, 1, *argv, app=app, **variables) as (member,):
        yield member


@contextmanager
def workers_at(
    url: str, count: int, *argv: str, app: Celery | None = None, **variables: str
) -> Iterator[list[Member]]:
    """Start so many workers at a broker that has none; yield once all answer.

    Raises:
        SystemExit: with their log, if one ends or does not answer in time.
    """
    places = {"WANWU_BROKER_URL": url, "WANWU_RESULT_URL": "", "WANWU_IMAGE_ROOTS": "/"}
    environment = os.environ | places | variables
    children: list[subprocess.Popen[bytes]] = []
    with TemporaryFile() as log:
        try:
            while len(children) < count:
                children += [
                    start_child(
                        [sys.executable, *argv],
                        env=environment,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                ]
            _await(app or make_app(_settings(url), stores_results=False), children)
        except TimeoutError as e:
            log.seek(0)
            options = f"{e}\n{log.read().decode(errors='replace')}"
            raise SystemExit(options) from e
        else:
            yield [Member(child.pid) for child in children]
        finally:
            for child in children:
                child.terminate()
            for child in children:
                stop_child(child, STOP_GRACE_S)


def _settings(url: str) -> Settings:
    return Settings(broker_url=SecretUrl(url))


def _await(app: Celery, children: list[subprocess.Popen[bytes]]) -> None:
    ends_s = time.monotonic() + START_TIMEOUT_S
    while len(app.control.ping(timeout=1.0, limit=len(children))) < len(children):
        if any(child.poll() is not None for child in children):
            msg = "a worker has ended before it began"
            raise TimeoutError(msg)
        if time.monotonic() > ends_s:
            msg = f"the workers did not come up in {START_TIMEOUT_S:.0f} s"
            raise TimeoutError(msg)
