"""Records -> lines for a person."""

from __future__ import annotations

from pathlib import PurePath

from rich.console import Console

from producer.console.failures import sentence
from worker.contract.i18n import gettext as _
from worker.contract.messages import CERTAIN, Record, Tag
from worker.contract.printable import printable


class TerminalSink:
    """Shows each record as a line."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def write(self, record: Record) -> None:
        """Show one record."""
        self._console.print(human_line(record), highlight=False, markup=False, soft_wrap=True)

    def flush(self) -> None:
        """Have nothing to do: lines are shown at once."""


def human_line(record: Record) -> str:
    """Return a record as a person reads it on a terminal; tags that are guesses have a `?`."""
    name = PurePath(record.path).name
    if record.error is not None:
        message = sentence(record.error.code, record.error.message)
        return printable(_("{file}  failed: {message}").format(file=name, message=message))
    return printable(f"{name}  " + ", ".join(map(_shown, record.tags)))


def _shown(tag: Tag) -> str:
    return f"{tag.label} {tag.score:.2f}" + ("" if tag.score >= CERTAIN else "?")
