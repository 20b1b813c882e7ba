"""Records -> lines for a person."""

from __future__ import annotations

from rich.console import Console

from producer.console.tables import human_line
from worker.contract.messages import Record


class TerminalSink:
    """Shows each record as a line."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def write(self, record: Record) -> None:
        """Show one record."""
        self._console.print(human_line(record), highlight=False, markup=False, soft_wrap=True)

    def flush(self) -> None:
        """Have nothing to do: lines are shown at once."""
