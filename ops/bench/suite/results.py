"""What a bench gave, and the files that keep it: DIR/NAME.json, whole at any time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

State = Literal["done", "failed", "timed out", "stopped"]
SUFFIX: Final = ".json"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a bench. `figures` are what it wrote, or what it had written when it was ended.

    `reason` is why it is not done, in a line. `cpu_s` is the CPU time of all its processes.
    `load` is the machine's load average over a minute, before and after. `began` is in UTC.
    """

    bench: str
    effort: str
    state: State
    reason: str = ""
    arguments: tuple[str, ...]
    began: str
    took_s: float
    cpu_s: float = 0.0
    load: tuple[float, float]
    host: dict[str, str]
    figures: Any = None

    @property
    def is_done(self) -> bool:
        """Whether all figures are there."""
        return self.state == "done"


def save(result: Result, directory: Path) -> None:
    """Keep a result in the directory."""
    body = msgspec.json.format(msgspec.json.encode(result), indent=1)
    write_whole(directory / f"{result.bench}{SUFFIX}", body + b"\n")


def load(directory: Path) -> dict[str, Result]:
    """Return the results in the directory by name; other files are passed over."""
    return {one.bench: one for one in _results(directory)}


def forget(name: str, directory: Path) -> None:
    """Remove what an earlier run left of a bench."""
    for suffix in (SUFFIX, ".log", ".png"):
        (directory / f"{name}{suffix}").unlink(missing_ok=True)


def write_whole(file: Path, body: bytes) -> None:
    """Write a file that others may read at any time: they find the old one or the new one."""
    new = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        new.write_bytes(body)
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)


def _results(directory: Path) -> Iterator[Result]:
    for file in sorted(directory.glob(f"*{SUFFIX}")):
        try:
            found = msgspec.json.decode(file.read_bytes(), type=Result)
        except msgspec.MsgspecError:
            continue
        if file.name == f"{found.bench}{SUFFIX}":
            yield found
