"""What sinks that write to a stream share: they flush it, and close it if it is theirs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import IO, Self

from worker.contract.messages import Record


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
