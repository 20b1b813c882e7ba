"""What sinks that write to a stream share: they flush it, and close it if it is theirs."""

from __future__ import annotations

import io
import sys
from abc import ABC, abstractmethod
from typing import IO, Any, Self, cast

from worker.contract.messages import Record
from worker.contract.printable import printable_lines


class StreamSink(ABC):
    """A stream of bytes with its `with` block."""

    def __init__(self, stream: IO[bytes], *, closes: bool = True) -> None:
        self._stream = stream
        self._closes = closes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._closes:
            self._stream.close()

    @abstractmethod
    def write(self, record: Record) -> None:
        """Write one record."""

    def flush(self) -> None:
        """Make what was written safe from our own end."""
        self._stream.flush()


class _TerminalStream(io.RawIOBase):
    """Bytes that a terminal shows: nothing in them acts on it."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__()
        self._stream = stream

    def writable(self) -> bool:
        """Whether it can be written: always."""
        return True

    def write(self, data: Any, /) -> int:
        """Write whole records; rows of a table end as lines do."""
        text = bytes(data).decode("utf-8", "backslashreplace").replace("\r\n", "\n")
        self._stream.write(printable_lines(text).encode())
        return len(data)

    def flush(self) -> None:
        """Pass on what was written."""
        self._stream.flush()


def standard_output() -> IO[bytes]:
    """Return standard output; on a terminal, which a person reads, without what acts on it."""
    stream = sys.stdout.buffer
    return cast("IO[bytes]", _TerminalStream(stream)) if sys.stdout.isatty() else stream
