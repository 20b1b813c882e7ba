"""The file a user asked for, by its ending or by name; one module a format."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from producer.arguments import argument
from producer.errors import UnknownFormatError
from producer.formats.csv import HEADER, MARK, CsvSink, read_csv, records_in_rows, whole_rows
from producer.formats.deferred import DeferredSink
from producer.formats.existing import (
    ExistingRecords,
    existing_in,
    is_stream,
    lines_in,
    read_through,
)
from producer.formats.html import read_html, write_html
from producer.formats.journal import Journal, Read, Write, journal_of
from producer.formats.jsonl import LINE_START, JsonlSink, read_jsonl, records_in, whole_lines
from producer.formats.parquet import count_rows, read_parquet, write_parquet
from producer.formats.stream import StreamSink, standard_output
from producer.formats.xmp import XmpSink
from worker.contract.extras import ExtraError, missing, remedy
from worker.contract.i18n import gettext as _
from worker.contract.local.files import open_regular
from worker.contract.messages import Record

__all__ = [
    "ENDINGS",
    "FORMATS",
    "LINES",
    "OpenSink",
    "Sink",
    "Standing",
    "Stream",
    "Target",
    "check_writable",
    "existing_of",
    "form_of",
    "is_stream",
    "open_sink",
    "records_of",
    "target_of",
]

THUMBNAIL_PX: Final = 192


class Sink(Protocol):
    """Takes records; closed by its `with` block."""

    def write(self, record: Record) -> None:
        """Take one record."""

    def flush(self) -> None:
        """Make what was taken safe from our own end."""


OpenSink = AbstractContextManager[Sink]


Lines = Iterable[bytes]


class Stream(NamedTuple):
    """A format that grows record by record; `whole` leaves half of one at its end away.

    The first `heads` of what is whole are no records. `records` reads lines of the file of a name.
    Every file that is written so begins with `start`.
    """

    sink: Callable[..., StreamSink]
    whole: Callable[[Lines], Iterator[bytes]]
    records: Callable[[Lines, Path], Iterator[Record]]
    start: bytes
    heads: int = 0


class Format(NamedTuple):
    """How records become a file, and a file records: as a stream, or by way of a journal.

    `extra` is what it needs beside a plain installation. With neither `stream` nor `write`, records
    do not go into one file. `rows` tells how many are in a file without reading them.
    """

    endings: tuple[str, ...] = ()
    stream: Stream | None = None
    write: Write | None = None
    read: Read | None = None
    rows: Callable[[Path], int] | None = None
    extra: str = ""
    embeddings: bool = False
    thumbnail_px: int = 0


LINES: Final = Stream(JsonlSink, whole_lines, records_in, LINE_START)
_ROWS: Final = Stream(CsvSink, whole_rows, records_in_rows, HEADER, 1)
_EXCEL: Final = _ROWS._replace(sink=partial(CsvSink, marked=True), start=MARK + HEADER)
FORMATS: Final[dict[str, Format]] = {
    "jsonl": Format((".jsonl", ".ndjson"), LINES, read=read_jsonl, embeddings=True),
    "csv": Format((".csv",), _ROWS, read=read_csv),
    "csv-excel": Format((), _EXCEL, read=read_csv),
    "parquet": Format(
        (".parquet",),
        write=write_parquet,
        read=read_parquet,
        rows=count_rows,
        extra="parquet",
        embeddings=True,
    ),
    "html": Format((".html", ".htm"), write=write_html, read=read_html, thumbnail_px=THUMBNAIL_PX),
    "xmp": Format(extra="xmp"),
    "xmp-stem": Format(extra="xmp"),
}
ENDINGS: Final = {ending: name for name, form in FORMATS.items() for ending in form.endings}


class Target(NamedTuple):
    """Where records go: to a file, or into sidecars beside the images, or to standard output."""

    file: Path | None
    format: str

    @property
    def form(self) -> Format:
        """What its format can do."""
        return FORMATS[self.format]

    @property
    def in_sidecars(self) -> bool:
        """Whether each image has a file of its own."""
        return not (self.form.stream or self.form.write)


def target_of(file: Path | None, name: str | None) -> Target:
    """Return where records go, by a format's name or by the file's ending.

    Raises:
        UnknownFormatError: they do not belong together.
        ExtraError: what the format needs is not installed.
    """
    name = name or (form_of(file) if file else "jsonl")
    if name not in FORMATS:
        msg = _("there is no format {name}: there are {formats}")
        raise UnknownFormatError(msg.format(name=name, formats=", ".join(FORMATS)))
    target = Target(file, name)
    form = target.form
    problem = None
    _check_extra(name)
    if file is None and not target.in_sidecars and not form.stream:
        problem = _("the format {name} needs a file: give {out}").format(
            name=name, out=argument("out")
        )
    elif file is not None and target.in_sidecars:
        problem = _("the format {name} writes beside each image: leave out {out}").format(
            name=name, out=argument("out")
        )
    if problem:
        raise UnknownFormatError(problem)
    return target


def records_of(file: Path, name: str | None = None) -> Iterator[Record]:
    """Yield the records of a file, by a format's name or by its ending.

    Raises:
        UnknownFormatError: the ending is none that is known.
        ExtraError: what the format needs is not installed.
        RecordsError: what is in it are no records.
    """
    name = name or form_of(file)
    read = FORMATS[name].read
    if read is None:
        msg = _("{file}: the format {name} cannot be read").format(file=file.name, name=name)
        raise UnknownFormatError(msg)
    _check_extra(name)
    return read(file)


def form_of(file: Path) -> str:
    """Return the format of a file, by its ending.

    Raises:
        UnknownFormatError: it is none that is known.
    """
    name = ENDINGS.get(file.suffix.lower())
    if name is None:
        msg = _("{file}: the ending must be one of {endings}, or give {format}").format(
            file=file.name, endings=", ".join(ENDINGS), format=argument("format")
        )
        raise UnknownFormatError(msg)
    return name


def _check_extra(name: str) -> None:
    extra = FORMATS[name].extra
    if extra and missing(extra):
        msg = _("the format {name} needs: {install}").format(name=name, install=remedy(extra))
        raise ExtraError(msg)


def existing_of(target: Target) -> ExistingRecords:
    """Return what would be lost if the target's file were written anew: in it, or in its journal.

    Raises:
        OSError: it cannot be read.
    """
    form, file = target.form, target.file
    if file is None or form.read is None:
        return ExistingRecords(Path())
    read, rows = form.read, form.rows
    if form.stream:
        return lines_in(file, read, form.stream.whole, form.stream.heads)

    def counted(file: Path) -> ExistingRecords:
        return ExistingRecords(file, rows(file)) if rows else read_through(file, read)

    found = existing_in(file, read, counted)
    return lines_in(journal_of(file), read_jsonl, whole_lines, 0) if found.is_nothing else found


def check_writable(path: Path) -> None:
    """Make sure that `path` can be written, and leave it as it is: the work may not even begin.

    Raises:
        OSError: it cannot.
    """
    if path.is_file():
        path.open("ab").close()
    elif not (path.exists() or path.is_symlink()):
        # Another name, without one: the file may be made by somebody else at this moment.
        tempfile.TemporaryFile(dir=path.parent).close()


def open_sink(target: Target, *, appends: bool = False) -> OpenSink:
    """Return the sink of a file, empty at first unless it `appends`; of sidecars; or of a stream.

    What stands in a file that is not to be appended to stays until the first record comes.

    Raises:
        OSError: the file cannot be created.
    """
    file = target.file
    if file is None or appends or (target.form.stream and is_stream(file)):
        return _sink(target, appends=True)
    return DeferredSink(lambda: _sink(target, appends=False))


def _sink(target: Target, *, appends: bool) -> OpenSink:
    form, file = target.form, target.file
    if form.stream:
        if file is None:
            return form.stream.sink(standard_output(), closes=False)
        stream = _as_begun(form.stream, file) if appends else form.stream
        return stream.sink(file.open("ab" if appends else "wb"))
    if form.write and form.read and file:
        return Journal(file, form.write, form.read, appends=appends)
    return XmpSink(by_stem=target.format == "xmp-stem")


def _as_begun(stream: Stream, file: Path) -> Stream:
    """Return how records go on in a file: a table that began with the mark keeps to its rules."""
    if stream not in (_ROWS, _EXCEL) or not file.is_file():
        return stream
    with open_regular(file) as lines:
        start = lines.read(len(MARK))
    return stream if not start else _EXCEL if start == MARK else _ROWS
