"""A file of records -> its lines, none longer than a record: anything may lie there, as a film."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from producer.errors import RecordsError
from worker.contract.i18n import gettext as _
from worker.contract.local.files import open_given

# Longer than any record with its embedding and its thumbnail.
LONGEST_LINE: Final = 64 * 1024 * 1024
# A user may name a FIFO to which a job writes, and jobs may rest.
_WAIT_S: Final = 600.0


def lines_in_file(file: Path) -> Iterator[bytes]:
    """Yield the lines of a file that a user has named, which may be a FIFO.

    Raises:
        RecordsError: one is longer than any record.
        UnfitFileError: it is a directory, or nothing has come for too long.
        OSError: it cannot be read.
    """
    with open_given(file, _WAIT_S) as stream:
        yield from bounded_lines(stream, file)


def bounded_lines(stream: IO[bytes], file: Path) -> Iterator[bytes]:
    """Yield the lines of a stream.

    Raises:
        RecordsError: one is longer than any record.
    """
    number = 1
    while line := stream.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            msg = _("{file}, line {line}: this is not a record").format(file=file, line=number)
            raise RecordsError(msg)
        yield line
        number += 1
