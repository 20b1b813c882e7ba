"""The end of a file to which records are appended: half a record there goes, a whole one is ended.

A writer that is killed, or whose disk is full, leaves half a record behind. Whatever else stands in
a file is somebody's, and stays as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from producer.errors import RecordsError
from producer.formats.existing import foreign
from producer.formats.lines import LONGEST_LINE, bounded_lines
from worker.contract.local.files import open_regular, open_to_change
from worker.contract.messages import Record

if TYPE_CHECKING:
    from producer.formats import Stream

_NEWLINE: Final = b"\n"
_ROW_END: Final = b"\r\n"


def refuse_a_blob(file: Path) -> None:
    """Refuse a file whose first line has no end within reason.

    Raises:
        RecordsError: it is no file of records.
    """
    with open_regular(file) as lines:
        first = lines.readline(LONGEST_LINE + 1)
    if len(first) > LONGEST_LINE:
        raise _foreign(file)


def mend_end(file: Path, stream: Stream, *, is_ours: bool, was_begun: bool = False) -> list[Record]:
    """Make the file end with a whole record; what stands before was read as records already.

    Where nothing stood before, half a record is cut off only if the file is known as ours: by
    `is_ours` or, if a job of ours `was_begun` in it, by its beginning. Return the record that only
    lacked the end of its line, if there is one.

    Raises:
        RecordsError: its end may be somebody else's.
    """
    with open_to_change(file) as lines:
        heads: list[bytes] = []
        size_bytes = 0
        for line in stream.whole(bounded_lines(lines, file)):
            if len(heads) < stream.heads:
                heads.append(line)
            size_bytes += len(line)
        lines.seek(size_bytes)
        end = lines.read()
        if not end:
            return []
        found = _records_in([*heads, end + _NEWLINE], file, stream)
        if found is not None:
            lines.write(_NEWLINE)
            return found
        is_ours = is_ours or (was_begun and _begins_alike(end, stream.start))
        if not (size_bytes or is_ours) or _ROW_END in end:
            raise _foreign(file)
        lines.truncate(size_bytes)
        return []


def _records_in(lines: list[bytes], file: Path, stream: Stream) -> list[Record] | None:
    """Return the records of lines of which each is whole, or None."""
    # A line that ends within quotes is none.
    if len(list(stream.whole(lines))) < len(lines):
        return None
    try:
        return list(stream.records(lines, file))
    except RecordsError:
        return None


def _begins_alike(end: bytes, start: bytes) -> bool:
    return end.startswith(start) or start.startswith(end)


def _foreign(file: Path) -> RecordsError:
    return RecordsError(foreign(file))
