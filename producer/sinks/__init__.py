"""The file a user asked for, by its ending; one module a format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, Protocol

from rich.console import Console

from producer.report import human_line
from producer.sinks.jsonl import JsonlSink
from worker.contract.messages import Record


class Sink(Protocol):
    """Takes records; closed by its `with` block."""

    def write(self, record: Record) -> None:
        """Take one record."""

    def flush(self) -> None:
        """Make what was taken safe from our own end."""


def _jsonl(path: Path, mode: Mode) -> JsonlSink:
    return JsonlSink(path.open(mode))


Mode = Literal["wb", "ab"]
FORMATS: Final[dict[str, Callable[[Path, Mode], JsonlSink]]] = {".jsonl": _jsonl, ".ndjson": _jsonl}


class UnknownFormatError(ValueError):
    """No sink writes files of this ending."""


def check_writable(path: Path) -> None:
    """Make sure that `path` can be written, and leave it as it is: the work may not even begin.

    Raises:
        OSError: it cannot.
    """
    is_new = not (path.exists() or path.is_symlink())
    if is_new or path.is_file():
        path.open("ab").close()
    if is_new:
        path.unlink()


def open_sink(path: Path, *, appends: bool = False) -> JsonlSink:
    """Create the file, empty unless it `appends`, and return its sink.

    Raises:
        UnknownFormatError: naming the endings that are known.
        OSError: the file cannot be created.
    """
    make = FORMATS.get(path.suffix.lower())
    if make is None:
        msg = f"{path.name}: the ending must be one of {', '.join(FORMATS)}"
        raise UnknownFormatError(msg)
    return make(path, "ab" if appends else "wb")


class TerminalSink:
    """Shows each record as a line for a person."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def write(self, record: Record) -> None:
        """Show one record."""
        self._console.print(human_line(record), highlight=False, markup=False, soft_wrap=True)

    def flush(self) -> None:
        """Have nothing to do: lines are shown at once."""
