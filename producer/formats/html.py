"""Records <-> one page that needs nothing else: thumbnails, tags, scores, filter, failures, times.

The records stand in it as lines of JSON, so that it can be read back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.resources import files
from itertools import takewhile
from pathlib import Path
from typing import Final

from producer.errors import RecordsError
from producer.formats.jsonl import line_of, records_in
from producer.formats.lines import lines_in_file
from worker.contract.i18n import gettext as _
from worker.contract.messages import Record

_PAGE: Final = "page.html"
_HERE: Final = "<!-- records -->\n"
_BEGIN: Final = b'<script type="application/x-ndjson" id="records">\n'
_END: Final = b"</script>\n"
# Within a script element a browser looks for its end alone.
_SAFE: Final = ("<", "\\u003c")


def write_html(records: Callable[[], Iterator[Record]], file: Path) -> None:
    """Write the page.

    Raises:
        OSError: the file cannot be written.
    """
    page = files("producer.formats").joinpath(_PAGE).read_text(encoding="utf-8")
    before, after = page.split(_HERE)
    with file.open("wb") as out:
        out.write(before.encode() + _BEGIN)
        for record in records():
            out.write(line_of(record).replace(*_SAFE).encode() + b"\n")
        out.write(_END + after.encode())


def read_html(file: Path) -> Iterator[Record]:
    """Yield the records of a page.

    Raises:
        RecordsError: it is none of ours.
    """
    lines = lines_in_file(file)
    if _BEGIN not in lines:
        msg = _("{file}: this page holds no records").format(file=file)
        raise RecordsError(msg)
    yield from records_in(takewhile(lambda line: line != _END, lines), file)
