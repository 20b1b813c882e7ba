"""Programs in processes that are forked from one which has loaded what they import.

To load torch and Celery takes five seconds of a core, most of what a worker in a test costs. Those
that are about the start itself, or about what a process loads, ask for a fresh one instead.

As a program it reads a line of JSON for each order and answers with another.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final, NoReturn

_LOADED: Final = (
    *("worker.cli", "worker.service.app", "worker.engines.torchscript", "worker.labels.encoder"),
    *("worker.monitoring.http", "celery.apps.worker", "celery.worker.autoscale"),
    *("celery.concurrency.thread", "worker.contract.stores.jobs", "worker.monitoring.logs"),
    *("worker.cli.start", "producer.cli", "producer.cli.run_submit", "producer.jobs.run"),
    *("producer.cli.verbs", "producer.cli.jobs", "producer.monitoring.doctor"),
)
_POLL_S: Final = 0.01


class Forked:
    """A process as `subprocess.Popen` gives it, as far as tests use one."""

    def __init__(self, parent: Parent, pid: int) -> None:
        self._parent = parent
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._parent.ask(poll=self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline_s = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline_s is not None and time.monotonic() > deadline_s:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            time.sleep(_POLL_S)
        return code

    def send_signal(self, number: int) -> None:
        # Only `poll` buries it: until then, nothing else has its number.
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Parent:
    """The process that has loaded everything; it ends with this one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def ask(self, **order: Any) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        with self._lock:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())

    def start(
        self, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], out: Path, err: Path
    ) -> subprocess.Popen[bytes]:
        """Start `python ARGV...`, which writes to two files, or twice to one."""
        files = [str(out), str(err)]
        for file in files:
            Path(file).touch()
        order = {"argv": [*argv], "cwd": str(cwd), "env": dict(env), "files": files}
        forked: Any = Forked(self, self.ask(start=order))
        return forked  # type: ignore[no-any-return]


@cache
def parent() -> Parent:
    """Return the one of this process."""
    return Parent()


def _serve() -> dict[str, Any]:
    """Answer orders; in a child, return what it is to be."""
    for line in sys.stdin:
        order = json.loads(line)
        if pid := order.get("poll"):
            found, status = os.waitpid(pid, os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if found else None
        elif not (answer := os.fork()):
            start: dict[str, Any] = order["start"]
            return start
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    # Nobody listens any more; children go as well.
    os._exit(0)


def _become(start: dict[str, Any]) -> NoReturn:
    os.setsid()
    _die_with_parent()
    os.environ.clear()
    os.environ.update(start["env"])
    os.chdir(start["cwd"])
    _write_to(*start["files"])
    code: Any = 1
    try:
        _run(start["argv"])
        code = 0
    except SystemExit as e:
        code = e.code
        if isinstance(code, str):
            sys.stderr.write(code + "\n")
    except BaseException as e:  # noqa: BLE001 - whatever it is, it is shown
        sys.excepthook(type(e), e, e.__traceback__)
        if isinstance(e, KeyboardInterrupt):
            code = 130
    _end(code if isinstance(code, int) else int(bool(code)))


def _run(argv: list[str]) -> None:
    first, *rest = argv
    sys.argv = argv if first != "-m" else rest
    if first == "-m":
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(first, run_name="__main__")


def _end(code: int) -> NoReturn:
    """End as Python does, but without cleaning up what all libraries hold: that takes a second."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _write_to(out: str, err: str) -> None:
    """Give the process what a new one has: nothing to read, and two files to write to."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    opened = (os.open(os.devnull, os.O_RDONLY), *(os.open(file, flags) for file in (out, err)))
    for number, descriptor in enumerate(opened):
        os.dup2(descriptor, number)
    os.closerange(3, 64)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    # As Python itself opens them in the locale of tests.
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def _die_with_parent() -> None:
    import ctypes  # noqa: PLC0415

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _load() -> None:
    from worker.blas import multiply_alone, wait_briefly  # noqa: PLC0415

    # As `worker start` does before it loads anything.
    multiply_alone()
    wait_briefly()
    for name in _LOADED:
        importlib.import_module(name)
    # What is never looked through is not copied for each child.
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    _load()
    _become(_serve())
