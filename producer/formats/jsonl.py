"""Records <-> one JSON object a line, UTF-8 whatever the locale."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from producer.errors import RecordsError
from producer.formats.lines import lines_in_file
from producer.formats.stream import StreamSink
from worker.contract.codec import decode
from worker.contract.i18n import gettext as _
from worker.contract.messages import Record

_SCORE_DIGITS: Final = 6
_MS_DIGITS: Final = 3
# How each line begins.
LINE_START: Final = b'{"path": "'
# Long, and seldom asked for: a line holds them only then.
_OPTIONAL: Final = ("embedding", "thumbnail")


class JsonlSink(StreamSink):
    """Writes records to a stream, which it closes at the end unless it is somebody else's."""

    def write(self, record: Record) -> None:
        """Write one line."""
        self._stream.write(line_of(record).encode() + b"\n")


def line_of(record: Record) -> str:
    """Return the record as JSON.

    Chinese stays readable. A name that is no UTF-8 is written with escaped surrogates, so that the
    file is UTF-8 all the same and `os.fsencode(json.loads(line)["path"])` is the name on disk.
    """
    fields = _rounded(msgspec.to_builtins(record))
    text = json.dumps(fields, ensure_ascii=False, separators=(", ", ": "))
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(fields, separators=(", ", ": "))
    return text


def read_jsonl(file: Path) -> Iterator[Record]:
    """Yield the records of a file. Half a line at its end, of a writer that was killed, is left.

    Raises:
        RecordsError: a line is no record.
    """
    yield from records_in(lines_in_file(file), file)


def whole_lines(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield each whole line."""
    return (line for line in lines if line.endswith(b"\n"))


def records_in(lines: Iterable[bytes], file: Path) -> Iterator[Record]:
    """Yield the record of each whole line.

    Raises:
        RecordsError: naming the line that holds none.
    """
    for number, line in enumerate(whole_lines(lines), 1):
        try:
            yield msgspec.convert(decode(line), Record)
        except (ValueError, msgspec.ValidationError) as e:
            msg = _("{file}, line {line}: this is not a record").format(file=file, line=number)
            raise RecordsError(msg) from e


def _rounded(fields: dict[str, Any]) -> dict[str, Any]:
    for tag in fields["tags"]:
        tag["score"] = round(tag["score"], _SCORE_DIGITS)
    fields["timing"] = {
        name: value if value is None else round(value, _MS_DIGITS)
        for name, value in fields["timing"].items()
    }
    for name in _OPTIONAL:
        if fields[name] is None:
            del fields[name]
    return fields
