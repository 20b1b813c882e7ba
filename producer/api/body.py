"""Bytes of one request, as they were received: in memory, or in a temporary file."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import deque
from typing import IO, Final

from producer.api.errors import RefusedError

_REPLAYED_BYTES: Final = 2**18
# So much of its end is at hand: a boundary has 70 characters at most, and little comes after it.
_TAIL_BYTES: Final = 256


class Body:
    """What was received of one body."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self.in_memory_bytes = 0
        self.tail = b""
        self.heard_s = time.monotonic()
        self.reading: asyncio.Timeout | None = None
        self.refusal: RefusedError | None = None
        self._pieces: deque[bytes] = deque()
        self._file: IO[bytes] | None = None

    def note(self, piece: bytes) -> None:
        """Count a piece, and remember how it ends."""
        self.size_bytes += len(piece)
        self.tail = (self.tail + piece[-_TAIL_BYTES:])[-_TAIL_BYTES:]

    def keep(self, piece: bytes) -> None:
        """Keep a piece in memory."""
        self._pieces.append(piece)
        self.in_memory_bytes += len(piece)

    def write(self, piece: bytes) -> None:
        """Write a piece to the file, after all that was in memory. In a thread of its own."""
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
            while self._pieces:
                self._file.write(self._pieces.popleft())
        self._file.write(piece)

    @property
    def is_in_file(self) -> bool:
        """Whether it was too large for memory."""
        return self._file is not None

    def rewind(self) -> None:
        """Go to the first byte."""
        if self._file is not None:
            self._file.seek(0)

    def next(self) -> bytes:
        """Return the next piece; nothing at the end. What was in memory is free then."""
        if self._file is not None:
            return self._file.read(_REPLAYED_BYTES)
        return self._pieces.popleft() if self._pieces else b""

    def close(self) -> None:
        """Free all of it."""
        self._pieces.clear()
        if self._file is not None:
            self._file.close()

    def end(self, refusal: RefusedError) -> None:
        """Let whoever reads it stop, with this answer."""
        self.refusal = refusal
        if self.reading is not None:
            self.reading.reschedule(asyncio.get_running_loop().time())
