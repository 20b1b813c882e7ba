"""Where a verb's records and words go, and what is said of them when it ends."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Final, NamedTuple

from rich.console import Console

from producer.formats import Sink, Target, UnknownFormatError, existing_of, is_stream, open_sink
from producer.formats.deferred import DeferredSink
from producer.formats.journal import journal_of
from producer.formats.output_lock import OutputLock
from producer.formats.terminal import TerminalSink
from producer.formats.xmp import XmpSink
from producer.sources import stores as urls
from worker.contract.i18n import gettext as _


class ExistingRecordsError(ValueError):
    """What was to be written holds something already, and nobody said that it may go."""


class Place(NamedTuple):
    """A file for records; with a `url` it is here only until it is complete, and then there."""

    file: Path
    url: str = ""


def place_of(word: str) -> Place:
    """Return where --out says that records go; for a URL, a new directory of our own."""
    if not urls.is_url(word):
        return Place(Path(word))
    return Place(Path(tempfile.mkdtemp(prefix="wanwu-")) / Path(word).name, word)


def is_terminal(stream: IO[str] | None) -> bool:
    """Whether a standard stream, which may be closed (`>&-`), is a terminal."""
    return stream is not None and stream.isatty()


def _is_open(stream: IO[str] | None) -> bool:
    return stream is not None


class Output:
    """A target, and the console for words: standard error, or the terminal that shows records."""

    def __init__(self, target: Target, url: str = "") -> None:
        """Take where records go; with a URL, the target's file goes there in the end.

        Raises:
            UnknownFormatError: they go to standard output, which is closed.
        """
        self._url = url
        on_stdout = target.file is None and not target.in_sidecars
        if on_stdout and not _is_open(sys.stdout):
            msg = _("standard output is closed: give --out")
            raise UnknownFormatError(msg)
        on_terminal = on_stdout and is_terminal(sys.stdout)
        self.target: Final = target
        self.console: Final = Console(stderr=not (on_terminal and is_terminal(sys.stderr)))
        self._on_terminal = on_terminal and target.format == "jsonl"
        self._sidecars: XmpSink | None = None
        self._deferred: DeferredSink | None = None

    @contextmanager
    def sink(self, *, appends: bool = False) -> Iterator[Sink]:
        """Yield what takes the records."""
        if self._on_terminal:
            yield TerminalSink(Console() if self.console.stderr else self.console)
            return
        with open_sink(self.target, appends=appends) as sink:
            if isinstance(sink, XmpSink):
                self._sidecars = sink
            if isinstance(sink, DeferredSink):
                self._deferred = sink
            yield sink

    def held(self, echo: Callable[[str], None]) -> AbstractContextManager[None]:
        """Keep other commands from the file in the block; `say` hears if nothing does.

        Raises:
            InUseError: another command writes it.
        """
        file = self.target.file
        if file is None or self._url or is_stream(file):
            return nullcontext()
        return OutputLock(file).held(echo)

    def refuse_to_replace(self, way_on: str) -> None:
        """Refuse a file, or URL, that holds something; `way_on` is what else can be done about it.

        Raises:
            ExistingRecordsError: naming how much stands there.
            StoreError: the URL's store does not answer.
        """
        if self._url:
            if size_bytes := urls.size(self._url):
                if self.target.file:
                    shutil.rmtree(self.target.file.parent)
                msg = _(
                    "{url} already holds {size:,} bytes: {way_on}, or replace them with --overwrite"
                ).format(url=self._url, size=size_bytes, way_on=way_on)
                raise ExistingRecordsError(msg)
            return
        found = existing_of(self.target)
        if found.foreign:
            msg = _(
                "{file} holds something other than records: choose another --out, or "
                "replace it with --overwrite"
            ).format(file=found.file)
            raise ExistingRecordsError(msg)
        if found.records:
            msg = _(
                "{file} already holds {count} records: {way_on}, or replace them with --overwrite"
            ).format(file=found.file, count=found.how_many, way_on=way_on)
            raise ExistingRecordsError(msg)

    def fetch(self) -> None:
        """Get what lies at the URL already, to go on with it.

        Raises:
            StoreError: it does not answer.
        """
        if self._url and self.target.file:
            urls.download(self._url, self.target.file)

    def deliver(self) -> None:
        """Send the file to its URL, if it has one.

        Raises:
            StoreError: it is not taken. The file stays here.
        """
        if self._url and self.target.file:
            urls.upload(self.target.file, self._url)
            shutil.rmtree(self.target.file.parent)

    @property
    def is_as_it_was(self) -> bool:
        """Whether the file still holds what it held before, as no record has come."""
        return self._deferred is not None and not self._deferred.is_opened

    @property
    def unwritten(self) -> int:
        """How many sidecars could not be written."""
        return self._sidecars.unwritten if self._sidecars else 0

    def remarks(self) -> Iterator[str]:
        """Yield what a user should know of how it was written."""
        if self._sidecars and self.unwritten:
            yield from self._sidecars.problems
            if (more := self.unwritten - len(self._sidecars.problems)) > 0:
                yield _("and {more:,} more").format(more=more)

    @property
    def place(self) -> str:
        """Where the records are that have come so far, for a sentence."""
        file = self.target.file
        if self.target.in_sidecars:
            return _("the sidecars")
        if file is None:
            return _("the output above")
        return str(file if self.target.form.stream else journal_of(file))
