"""Where a verb's records go, and where it speaks: to standard error, or to the same terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Final

from producer.cli.exit_codes import echo
from producer.console.printable_console import PrintableConsole
from producer.errors import UnknownFormatError
from producer.formats import Sink, Target, target_of
from producer.formats.output import Output, Place
from producer.formats.terminal import TerminalSink
from worker.contract.i18n import gettext as _


class ConsoleOutput(Output):
    """An output that is a file, sidecars, or standard output; a terminal shows lines for people."""

    def __init__(self, target: Target, url: str = "", *, threshold: float | None = None) -> None:
        """Take where records go; with a URL, the target's file goes there in the end.

        Raises:
            UnknownFormatError: they go to standard output, which is closed.
        """
        super().__init__(target, url, threshold=threshold)
        self.form: Final = target.form
        self.in_sidecars: Final = target.in_sidecars
        self.file: Final = target.file
        on_stdout = target.file is None and not target.in_sidecars
        if on_stdout and not _is_open(sys.stdout):
            msg = _("standard output is closed: give --out")
            raise UnknownFormatError(msg)
        on_terminal = on_stdout and is_terminal(sys.stdout)
        on_stderr = not (on_terminal and is_terminal(sys.stderr))
        self.console: Final = PrintableConsole(stderr=on_stderr)
        self._on_terminal = on_terminal and target.format == "jsonl"

    @contextmanager
    def sink(self, *, appends: bool = False) -> Iterator[Sink]:
        """Yield what takes the records."""
        if self._on_terminal:
            terminal = TerminalSink(PrintableConsole() if self.console.stderr else self.console)
            yield self._without_doubtful(terminal)
            return
        with super().sink(appends=appends) as sink:
            yield sink

    def say_remarks(self) -> None:
        """Say what a person should know of how the records were written."""
        for remark in self.remarks():
            echo(remark)


def output_of(out: Place | None, form: str | None, threshold: float | None = None) -> ConsoleOutput:
    """Return where records go: those tags that score at least a threshold.

    Raises:
        UnknownFormatError: file and format do not belong together.
        ExtraError: what the format needs is not installed.
    """
    target = target_of(out and out.file, form)
    return ConsoleOutput(target, out.url if out else "", threshold=threshold)


def is_terminal(stream: IO[str] | None) -> bool:
    """Whether a standard stream, which may be closed (`>&-`), is a terminal."""
    return stream is not None and stream.isatty()


def _is_open(stream: IO[str] | None) -> bool:
    return stream is not None
