"""Compressed pieces of a body -> plain ones, none of them large."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

from worker.images.fetch.failures import unreadable

ENCODINGS: Final = frozenset({"gzip", "x-gzip", "deflate"})
_PIECE_BYTES: Final = 256 * 1024
# Of zlib: whichever of gzip's and its own header there is.
_ANY_HEADER: Final = 47
_TOO_LONG: Final = "its compressed data goes on after its end"
_TOO_SHORT: Final = "its compressed data ends too early"


class Inflater:
    """Inflates one stream. A second one behind it is refused: a body can hold millions of them."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(_ANY_HEADER)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what some more data adds, in pieces of at most 256 KiB.

        Raises:
            UnreadableError: it is not compressed like this, or goes on after its end.
        """
        try:
            while data:
                if self._stream.eof:
                    raise unreadable(_TOO_LONG)
                yield self._stream.decompress(data, _PIECE_BYTES)
                data = self._stream.unconsumed_tail or self._stream.unused_data
        except zlib.error as e:
            raise unreadable(e) from e

    def end(self) -> bytes:
        """Return what is left at the end of the data.

        Raises:
            UnreadableError: it ends too early.
        """
        rest = self._stream.flush()
        if not self._stream.eof:
            raise unreadable(_TOO_SHORT)
        return rest
