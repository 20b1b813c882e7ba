"""Records -> a journal beside the file that was asked for -> that file, once all have come.

Some formats can be written only when the last record is there, and are nothing till then. What has
come so far must not be lost to a crash, so it is kept as lines of JSON until the file stands.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from producer.formats.jsonl import JsonlSink, read_jsonl
from worker.contract.local.neighbours import new_beside, open_own
from worker.contract.messages import Record

SUFFIX: Final = ".part"

Records = Callable[[], Iterator[Record]]
Write = Callable[[Records, Path], None]
Read = Callable[[Path], Iterator[Record]]


class Journal:
    """A sink whose file appears, whole, when the block ends well; else its journal stays."""

    def __init__(self, file: Path, write: Write, read: Read, *, appends: bool) -> None:
        """Take how the records of `file` are written and read.

        One that `appends` keeps those of the file and of the journal that are there.
        """
        self._file = file
        self._write = write
        self._read = read
        self._appends = appends
        self._journal: Final = journal_of(file)
        journal = open_own(self._journal)
        if appends:
            journal.seek(0, os.SEEK_END)
        else:
            journal.truncate()
        self._lines = JsonlSink(journal)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lines.__exit__(kind, error, trace)
        if kind is None:
            replace(self._file, lambda new: self._write(self._records, new))
            self._journal.unlink()

    def write(self, record: Record) -> None:
        """Keep one record."""
        self._lines.write(record)

    def flush(self) -> None:
        """Make what was written safe from our own end."""
        self._lines.flush()

    def _records(self) -> Iterator[Record]:
        before = self._read(self._file) if self._appends and self._file.exists() else iter(())
        return chain(before, read_jsonl(self._journal))


def journal_of(file: Path) -> Path:
    """Return where a journal lies."""
    return file.with_name(f"{file.name}{SUFFIX}")


def refuse_journal(file: Path) -> None:
    """Refuse, before any work, what lies where the journal of a file would, if that is none.

    Raises:
        UnfitFileError: saying what it is.
    """
    journal = journal_of(file)
    if os.path.lexists(journal):
        open_own(journal).close()


def replace(file: Path, write: Callable[[Path], None], *, follows: bool = True) -> None:
    """Let `write` make a file beside `file` and put it in its place; readers see one or the other.

    What was there keeps its permissions. A link keeps leading where it led, if a user named it;
    else it is not followed.

    Raises:
        OSError: it cannot be made. `file` is then as it was.
    """
    if follows:
        file = Path(os.path.realpath(file))
    new = new_beside(file)
    try:
        write(new)
        if file.exists():
            new.chmod(file.stat().st_mode)
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)
