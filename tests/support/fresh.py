"""Fresh environments that hold this project's wheel, what it asks for, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from conftest import PATIENCE_S, ROOT

from worker.contract.local.subprocesses import start_child, stop_child

INSTALL_TIMEOUT_S = 3 * PATIENCE_S
CONSTRAINTS = ROOT / "ops" / "constraints.txt"
UV = str(Path(sys.executable).parent / "uv")


@dataclass
class Fresh:
    """An environment: its programs see neither ours nor its packages, and have a HOME of their own.

    Attributes:
        directory: Where programs run; a user's own directory.
        variables: All of their environment.
    """

    venv: Path
    directory: Path
    variables: dict[str, str]
    started: list[Running] = field(default_factory=list)

    def start(self, *argv: str, **variables: str) -> Running:
        """Start a program of the environment."""
        log = Path(tempfile.mkdtemp(dir=self.directory.parent)) / "log"
        with log.open("wb") as sink:
            child = start_child(
                [str(self.venv / "bin" / argv[0]), *argv[1:]],
                cwd=self.directory,
                env=self.variables | variables,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        running = Running(argv, child, log)
        self.started.append(running)
        return running

    def run(self, *argv: str, code: int | None = 0, **variables: str) -> str:
        """Run a program to its end, which must be of that code; return what it said."""
        return self.start(*argv, **variables).end(code)

    def packages(self) -> dict[str, str]:
        """Return what is installed, and in which versions."""
        reply = subprocess.run(
            [UV, "pip", "freeze", "--quiet", "--python", str(self.venv / "bin" / "python")],
            check=True,
            capture_output=True,
            text=True,
        )
        pairs = (line.partition("==")[::2] for line in reply.stdout.splitlines() if "==" in line)
        return dict(pairs)


@dataclass
class Running:
    """A program that runs, and what it says."""

    argv: tuple[str, ...]
    child: subprocess.Popen[bytes]
    log: Path

    @property
    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def end(self, code: int | None = 0) -> str:
        """Wait for its end, in which there is no traceback; return what it said."""
        try:
            ended = self.child.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            stop_child(self.child, 1)
            pytest.fail(f"{' '.join(self.argv)} did not end:\n{self.text}")
        assert "Traceback" not in self.text, self.text
        assert code is None or ended == code, f"{' '.join(self.argv)}: {ended}\n{self.text}"
        return self.text

    def wait_for(self, argv: str) -> None:
        """Wait until it says so."""
        ends_s = time.monotonic() + PATIENCE_S
        while argv not in self.text:
            if self.child.poll() is not None or time.monotonic() > ends_s:
                pytest.fail(f"{' '.join(self.argv)} never said {argv!r}:\n{self.text}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it; harmless when it has ended."""
        stop_child(self.child, PATIENCE_S)


@dataclass
class Factory:
    """Makes environments, one after the other, of one wheel."""

    wheel: Path
    directory: Path
    variables: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def environment(self, extras: str = "", python: str = sys.executable) -> Iterator[Fresh]:
        """Yield an environment with the wheel and some extras; it is gone afterwards."""
        # Always at the same place, so that what an earlier one has compiled is found again.
        place, compiled = self.directory / "place", self.directory / "compiled"
        venv, home = place / "venv", place / "home"
        home.mkdir(parents=True)
        asked = f"wanwu-tagger{f'[{extras}]' if extras else ''} @ {self.wheel.as_uri()}"
        try:
            run_uv("venv", "--python", python, str(venv))
            limits = ("--constraint", str(CONSTRAINTS))
            run_uv("pip", "install", "--python", str(venv / "bin" / "python"), *limits, asked)
            variables = {
                "PATH": "/usr/bin:/bin",
                "HOME": str(home),
                "LC_ALL": "C.UTF-8",
                "PYTHONPYCACHEPREFIX": str(compiled),
            }
            fresh = Fresh(venv, home, variables | self.variables)
            try:
                yield fresh
            finally:
                for running in fresh.started:
                    running.stop()
        finally:
            shutil.rmtree(place, ignore_errors=True)


def build_wheel(directory: Path) -> Path:
    """Return the wheel of this checkout."""
    run_uv("build", "--wheel", "--out-dir", str(directory), str(ROOT))
    (wheel,) = directory.glob("*.whl")
    return wheel


def run_uv(*argv: str) -> None:
    """Run uv. Where no package index answers, the test is skipped; in CI, that is a failure."""
    done = subprocess.run(
        [UV, *argv, "--quiet"],
        capture_output=True,
        text=True,
        timeout=INSTALL_TIMEOUT_S,
        check=False,
    )
    if done.returncode == 0:
        return
    if has_index():
        pytest.fail(f"uv {' '.join(argv)}: {done.stderr}")
    reason = "INSTALLATIONS ARE NOT TESTED: no package index answers here"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@cache
def has_index() -> bool:
    """Whether a package index answers, whatever the cache holds."""
    ask = [UV, "pip", "install", "--dry-run", "--no-cache", "--reinstall", "--no-deps", "--quiet"]
    argv = [*ask, "--python", sys.executable, "idna"]
    done = subprocess.run(argv, check=False, timeout=INSTALL_TIMEOUT_S)
    return done.returncode == 0


@cache
def interpreter(version: str) -> str | None:
    """Return a Python of such a version on this machine."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    name = f"python{version}"
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [shutil.which(name), *map(str, pyenv.glob(f"{version}.*/bin/{name}"))]
    for path in filter(None, found):
        # A shim of that name may lead nowhere.
        if subprocess.run([path, "-c", ""], check=False, capture_output=True).returncode == 0:
            return path
    return None
