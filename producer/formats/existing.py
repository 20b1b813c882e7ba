"""A file that is to be written -> what stands in it already, found quickly whatever its size."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from producer.arguments import argument
from producer.errors import RecordsError
from producer.formats.lines import bounded_lines
from worker.contract.i18n import gettext as _
from worker.contract.local.files import open_regular
from worker.contract.messages import Record

# More is "at least so many": nobody waits for a count.
MOST_BYTES: Final = 256 * 1024 * 1024
MOST_RECORDS: Final = 10_000
_LONGEST_LINE: Final = 16 * 1024 * 1024
_STREAMS: Final = ("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/self/fd/")

Lines = Iterable[bytes]
Read = Callable[[Path], Iterator[Record]]


class ExistingRecords(NamedTuple):
    """What a file holds: so many records, or, if it is `foreign`, something else."""

    file: Path
    records: int = 0
    is_whole: bool = True
    foreign: bool = False

    @property
    def is_nothing(self) -> bool:
        """Whether nothing would be lost with it."""
        return not (self.records or self.foreign)

    @property
    def how_many(self) -> str:
        """How many records, for a sentence."""
        return (
            f"{self.records:,}"
            if self.is_whole
            else _("at least {records:,}").format(records=self.records)
        )


def is_stream(file: Path) -> bool:
    """Whether what is written there goes on to somebody: a pipe, a device, our own output."""
    if os.path.abspath(file).startswith(_STREAMS):  # noqa: PTH100 - resolve() would follow it
        return True
    return file.exists() and not file.is_file()


def existing_in(
    file: Path, read: Read, count: Callable[[Path], ExistingRecords]
) -> ExistingRecords:
    """Return what a file holds: something else than records if the first of it is none."""
    if is_stream(file) or not file.exists() or not file.stat().st_size:
        return ExistingRecords(file)
    try:
        found = next(read(file), None)
        return ExistingRecords(file) if found is None else count(file)
    except (RecordsError, ValueError, LookupError):
        return ExistingRecords(file, foreign=True)


def lines_in(
    file: Path, read: Read, whole: Callable[[Lines], Iterator[bytes]], heads: int
) -> ExistingRecords:
    """Return what a file of lines holds, of which the first `heads` are no records."""
    if not is_stream(file) and file.exists() and file.stat().st_size:
        with open_regular(file) as lines:
            # Anything may lie there, such as a film, which has no lines.
            if not lines.readline(_LONGEST_LINE).endswith(b"\n"):
                return ExistingRecords(file, foreign=True)

    def count(file: Path) -> ExistingRecords:
        with open_regular(file) as lines:
            found = sum(1 for _ in whole(_first(bounded_lines(lines, file)))) - heads
        return ExistingRecords(file, found, is_whole=file.stat().st_size <= MOST_BYTES)

    return existing_in(file, read, count)


def foreign(file: Path) -> str:
    """Return the sentence that a file holds something other than records, and what to do."""
    return _(
        "{file} holds something other than records: choose another {out}, or replace it with "
        "{overwrite}"
    ).format(file=file, out=argument("out"), overwrite=argument("overwrite"))


def read_through(file: Path, read: Read) -> ExistingRecords:
    """Return what a file holds whose records are counted by reading them."""
    found = sum(1 for _ in islice(read(file), MOST_RECORDS))
    return ExistingRecords(file, found, is_whole=found < MOST_RECORDS)


def _first(lines: Lines) -> Iterator[bytes]:
    seen = 0
    for line in lines:
        seen += len(line)
        if seen > MOST_BYTES:
            return
        yield line
