"""Records <-> a table as comma-separated values (RFC 4180), one row an image, UTF-8."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from producer.errors import RecordsError
from producer.formats.csv_cells import defused, true_text
from producer.formats.lines import LONGEST_LINE, lines_in_file
from producer.formats.names import from_utf8, to_utf8
from producer.formats.stream import StreamSink
from worker.contract.i18n import gettext as _
from worker.contract.messages import Record, Tag, Timing

_TIMES: Final = Timing.__struct_fields__
COLUMNS: Final = (
    *("path", "status", "label", "score", "tags", "scores", "parents"),
    *("error_code", "error_stage", "error_message", *_TIMES, "batch_size"),
    *("worker", "device", "model", "labels", "size_bytes", "modified_s"),
)
# Excel takes a file without it for one in the code page of the machine.
MARK: Final = "\ufeff".encode()
HEADER: Final = ",".join(COLUMNS).encode()
# Those that strangers choose; others are numbers, or words of ours.
_TEXTS: Final = frozenset(
    {"path", "label", "tags", "parents", "error_code", "error_stage", "error_message"}
    | {"worker", "device", "model", "labels"}
)
_BETWEEN: Final = "|"
# Between a parent and its own, as in a label file.
_BELOW: Final = " < "
_ESCAPED: Final = str.maketrans({sign: f"\\{sign}" for sign in ("\\", _BETWEEN)})
_ESCAPED_LEVEL: Final = _ESCAPED | str.maketrans({"<": "\\<"})
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_ESCAPE_OR: Final = {
    between: re.compile(rf"{_ESCAPE.pattern}|{re.escape(between)}", re.DOTALL)
    for between in (_BETWEEN, _BELOW)
}


class CsvSink(StreamSink):
    """Writes a table to a stream; with a header if the stream is at its beginning.

    `label` and `score` are those of the best tag. `tags`, `scores` and `parents` hold all, the best
    first, with `|` between them; a `|` or a backslash in a label has a backslash before it. Of each
    tag, `parents` has all that lies above it: `dog < animal`; there a `<` has a backslash, too.
    A table that is `marked` is for a spreadsheet: no cell of it is a formula.
    """

    def __init__(self, stream: IO[bytes], *, closes: bool = True, marked: bool = False) -> None:
        super().__init__(stream, closes=closes)
        self._text = io.StringIO(newline="")
        self._rows = csv.writer(self._text)
        self._begins = not (stream.seekable() and stream.tell())
        self._marked = marked

    def write(self, record: Record) -> None:
        """Write one row."""
        if self._begins:
            self._begins = False
            self._rows.writerow(COLUMNS)
            if self._marked:
                self._stream.write(MARK)
        row = _row(record)
        self._rows.writerow(_without_formulas(row) if self._marked else row)
        # The sentence of an error may repeat a name that is no UTF-8.
        self._stream.write(self._text.getvalue().encode("utf-8", "backslashreplace"))
        self._text.seek(0)
        self._text.truncate()


def read_csv(file: Path) -> Iterator[Record]:
    """Yield the records of a table. Half a row at its end, of a writer that was killed, is left.

    Raises:
        RecordsError: it is no table of ours.
    """
    yield from records_in_rows(lines_in_file(file), file)


def records_in_rows(lines: Iterable[bytes], file: Path) -> Iterator[Record]:
    """Yield the record of each whole row after the first, which is the header.

    Raises:
        RecordsError: naming the line that holds none.
    """
    texts = _Texts(lines)
    rows = csv.reader(texts, strict=True)
    try:
        header = next(rows, None)
        if header is None:
            return
        if tuple(header) != COLUMNS:
            msg = _("its columns are not those of records")
            raise ValueError(msg)  # noqa: TRY301 - raised with the line, like all others
        for row in rows:
            cells = dict(zip(COLUMNS, row, strict=True))
            yield _record(_with_formulas(cells) if texts.marked else cells)
    except RecordsError:
        raise
    except (ValueError, csv.Error, msgspec.ValidationError) as e:
        msg = _("{file}, line {line}: this is not a record ({reason})").format(
            file=file, line=rows.line_num, reason=e
        )
        raise RecordsError(msg) from e


def whole_rows(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield each whole row. A line break within quotes ends none.

    Raises:
        ValueError: one is longer than any record.
    """
    row: list[bytes] = []
    quotes = size_bytes = 0
    for line in lines:
        row.append(line)
        size_bytes += len(line)
        quotes += line.count(b'"')
        if quotes % 2 == 0 and line.endswith(b"\n"):
            yield b"".join(row)
            row, quotes, size_bytes = [], 0, 0
        elif size_bytes > LONGEST_LINE:
            msg = _("a row is too long")
            raise ValueError(msg)


class _Texts:
    """Whole rows, decoded; `marked` if a mark stands before the first, once that is read."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._rows = whole_rows(lines)
        self.marked = False

    def __iter__(self) -> Iterator[str]:
        for number, row in enumerate(self._rows):
            if not number:
                self.marked = row.startswith(MARK)
            yield row.decode("utf-8-sig")


def _without_formulas(row: list[object]) -> list[object]:
    return [
        defused(cell) if name in _TEXTS and isinstance(cell, str) else cell
        for name, cell in zip(COLUMNS, row, strict=True)
    ]


def _with_formulas(cells: dict[str, str]) -> dict[str, str]:
    return {name: true_text(cell) if name in _TEXTS else cell for name, cell in cells.items()}


def _row(record: Record) -> list[object]:
    best = record.tags[0] if record.tags else None
    error, stamp = record.error, record.file
    return [
        to_utf8(record.path),
        record.status,
        best and best.label,
        best and round(best.score, 6),
        _joined([tag.label for tag in record.tags]),
        _joined([f"{tag.score:.6g}" for tag in record.tags]),
        _BETWEEN.join(map(_line, record.tags)),
        *((error.code, error.stage, error.message) if error else ("", "", "")),
        *(getattr(record.timing, name) for name in _TIMES),
        record.batch_size,
        *(record.worker, record.device, record.model, record.labels),
        *((stamp.size_bytes, repr(stamp.modified_s)) if stamp else ("", "")),
    ]


def _record(row: dict[str, str]) -> Record:
    names, scores = (_split(row[name]) for name in ("tags", "scores"))
    lines = _lines(row["parents"])
    if not row["tags"]:
        names, scores, lines = [], [], []
    wire: dict[str, Any] = {
        "path": from_utf8(row["path"]),
        **{name: row[name] for name in ("status", "worker", "device", "model")},
        "tags": [
            {"label": name, "score": score, "parent": line[0] or None, "ancestors": line[1:]}
            for name, score, line in zip(names, scores, lines, strict=True)
        ],
        "error": None,
        "timing": {name: row[name] or None for name in _TIMES},
        "batch_size": row["batch_size"] or None,
        "labels": row["labels"] or None,
    }
    if row["error_code"]:
        wire["error"] = {part: row[f"error_{part}"] for part in ("code", "stage", "message")}
    if row["size_bytes"]:
        wire["file"] = {part: row[part] for part in ("size_bytes", "modified_s")}
    return msgspec.convert(wire, Record, strict=False)


def _joined(names: Sequence[str]) -> str:
    return _BETWEEN.join(name.translate(_ESCAPED) for name in names)


def _line(tag: Tag) -> str:
    return _BELOW.join(name.translate(_ESCAPED_LEVEL) for name in tag.above)


def _split(text: str) -> list[str]:
    return [_unescaped(part) for part in _parts(text, _BETWEEN)]


def _lines(text: str) -> list[list[str]]:
    """Return for each tag what lies above it; [""] if nothing does."""
    lines = (_parts(part, _BELOW) for part in _parts(text, _BETWEEN))
    return [[_unescaped(level) for level in line] for line in lines]


def _parts(text: str, between: str) -> list[str]:
    """Return what stands between signs that have no backslash before them."""
    parts, start = [], 0
    for found in _ESCAPE_OR[between].finditer(text):
        if found[0] == between:
            parts.append(text[start : found.start()])
            start = found.end()
    return [*parts, text[start:]]


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(r"\1", text)
