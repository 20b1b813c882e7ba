"""A container engine and its compose: found, and asked. Every command has a time limit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

# In the order in which they are looked for.
_ENGINES: Final = (
    ("docker", ("docker", "compose")),
    ("docker", ("docker-compose",)),
    ("podman", ("podman", "compose")),
    ("podman", ("podman-compose",)),
)
_PROBE_S: Final = 20
ASK_S: Final = 120


class EngineError(Exception):
    """There is no engine, or a command of it failed."""


@dataclass(frozen=True)
class Engine:
    """The words that begin its commands, and what it says it is."""

    program: str
    compose: tuple[str, ...]
    version: str

    def ask(self, *options: str, limit_s: float = ASK_S) -> str:
        """Return what a command of the engine prints.

        Raises:
            EngineError: it failed, or did not end in time.
        """
        return call((self.program, *options), limit_s=limit_s).stdout.strip()

    def inspect(self, what: str) -> dict[str, Any]:
        """Return all that the engine knows of a container or an image."""
        (found,) = json.loads(self.ask("inspect", what))
        return dict(found)


def find() -> Engine:
    """Return the first engine that answers and has a compose.

    Raises:
        EngineError: there is none.
    """
    for program, compose in _ENGINES:
        if shutil.which(compose[0]) is None or shutil.which(program) is None:
            continue
        try:
            call((program, "info"), limit_s=_PROBE_S)
            version = call((*compose, "version"), limit_s=_PROBE_S).stdout.splitlines()[0]
        except (EngineError, IndexError):
            continue
        return Engine(program, compose, version)
    msg = "no container engine with compose answers here (docker, podman)"
    raise EngineError(msg)


def call(
    options: tuple[str, ...],
    *,
    limit_s: float,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end.

    Raises:
        EngineError: it failed, or did not end in time; with its last lines.
    """
    shown = " ".join(options)
    try:
        done = subprocess.run(  # noqa: S603 - words are built by this program, no shell takes part
            options,
            cwd=cwd,
            env=os.environ | (env or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired as e:
        msg = f"`{shown}` did not end within {limit_s:.0f} s"
        raise EngineError(msg) from e
    except OSError as e:
        msg = f"`{shown}`: {e}"
        raise EngineError(msg) from e
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        msg = f"`{shown}` ended with {done.returncode}:\n{last}"
        raise EngineError(msg)
    return done
