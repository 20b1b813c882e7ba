"""Records -> one JSON object a line, UTF-8 whatever the locale."""

from __future__ import annotations

import json
from types import TracebackType
from typing import IO, Any, Final, Self

import msgspec

from worker.contract.messages import Record

_SCORE_DIGITS: Final = 6
_MS_DIGITS: Final = 3


class JsonlSink:
    """Writes records to a stream, which it closes at the end unless told otherwise."""

    def __init__(self, stream: IO[bytes], *, closes: bool = True) -> None:
        self._stream = stream
        self._closes = closes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._closes:
            self._stream.close()

    def write(self, record: Record) -> None:
        """Write one line."""
        self._stream.write(line_of(record).encode() + b"\n")

    def flush(self) -> None:
        """Make what was written safe from our own end."""
        self._stream.flush()


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


def _rounded(fields: dict[str, Any]) -> dict[str, Any]:
    for tag in fields["tags"]:
        tag["score"] = round(tag["score"], _SCORE_DIGITS)
    fields["timing"] = {
        name: value if value is None else round(value, _MS_DIGITS)
        for name, value in fields["timing"].items()
    }
    return fields
