"""Both commands in processes that are forked from one which has loaded what they import.

For rounds of hundreds of commands: to load the libraries takes longer than most of them run. As a
program it reads a line of JSON for each command and answers with a line: the exit code.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import click

_STREAMS: Final = ("stdin", "stdout", "stderr")
_LOADED: Final = (
    *("producer.cli", "producer.cli.run_submit", "producer.jobs.run", "producer.monitoring.doctor"),
    *("producer.api.server", "producer.monitoring.prometheus"),
    *("worker.cli", "worker.export.export", "worker.service.app"),
)


class Done(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


class Forks:
    """Runs one command at a time. `directory` is for what goes in and comes out of them."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        directory.mkdir()
        self._directory = directory
        self._parent = subprocess.Popen(
            [sys.executable, __file__],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._parent.communicate()

    def run(
        self, argv: Sequence[str], *, cwd: Path, environment: Mapping[str, str], stdin: str = ""
    ) -> Done:
        files = {name: str(self._directory / name) for name in _STREAMS}
        Path(files["stdin"]).write_text(stdin, encoding="utf-8")
        order = {"argv": argv, "cwd": str(cwd), "environment": dict(environment), "files": files}
        assert self._parent.stdin
        assert self._parent.stdout
        self._parent.stdin.write(json.dumps(order) + "\n")
        self._parent.stdin.flush()
        code = int(self._parent.stdout.readline())
        out, err = (Path(files[name]).read_text(encoding="utf-8") for name in _STREAMS[1:])
        return Done(code, out, err)


def _serve() -> None:
    for name in _LOADED:
        importlib.import_module(name)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if not child:
            _run(order)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _run(order: dict[str, Any]) -> None:
    code: Any = 1
    try:
        os.environ.clear()
        os.environ.update(order["environment"])
        os.chdir(order["cwd"])
        flags = (os.O_RDONLY, *([os.O_WRONLY | os.O_CREAT | os.O_TRUNC] * 2))
        for number, (name, flag) in enumerate(zip(_STREAMS, flags, strict=True)):
            descriptor = os.open(order["files"][name], flag, 0o600)
            os.dup2(descriptor, number)
            os.close(descriptor)
            mode = "w" if number else "r"
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
        name, *argv = order["argv"]
        main: click.Command = importlib.import_module(f"{name}.cli").main
        main.main(args=argv, prog_name=name)
    except SystemExit as e:
        code = e.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else bool(code))


if __name__ == "__main__":
    _serve()
