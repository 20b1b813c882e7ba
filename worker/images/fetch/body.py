"""Answer of a web server -> bytes, whole, within the limit and the budget of bytes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from worker.errors import TooLargeError
from worker.images.fetch.failures import unreadable
from worker.images.fetch.inflate import ENCODINGS, Inflater

if TYPE_CHECKING:
    import aiohttp

    from worker.images.fetch.limits import ByteBudget

_CRUMBS: Final = "it comes in pieces of a few bytes"
_PLAIN: Final = frozenset({"", "identity"})
# So much each fetch may hold; what is larger is taken from the budget that all share.
_SMALL_BYTES: Final = 4 * 1024 * 1024
# Smaller parts are put together: each by itself would take many times its size.
_PART_BYTES: Final = 4096
# After so many pieces a body whose pieces are smaller than this on average is refused: to take them
# keeps the loop busy, and all others wait.
_FIRST_PIECES: Final = 10_000
_PIECE_BYTES: Final = 64


class Body:
    """The body of one answer. What it holds of the budget is given back by who has used it."""

    def __init__(self, max_bytes: int, budget: ByteBudget) -> None:
        self._max_bytes = max_bytes
        self._budget = budget
        self._parts: list[bytes | bytearray] = []
        self._size_bytes = 0
        self._pieces = self._received_bytes = 0
        self.held_bytes = 0

    async def read(self, answer: aiohttp.ClientResponse) -> bytes:
        """Return the body, inflated. The server's library sees to it that none of it is missing.

        Raises:
            TooLargeError: it is, or says that it will be.
            UnreadableError: it is compressed in a way that is not known, damaged, or in crumbs.
            aiohttp.ClientError: it breaks off.
        """
        encoding = answer.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in _PLAIN | ENCODINGS:
            msg = f"it is compressed as {encoding}"
            raise unreadable(msg)
        inflater = Inflater() if encoding in ENCODINGS else None
        stated_bytes = answer.content_length or 0
        if stated_bytes > self._max_bytes:
            raise TooLargeError(stated_bytes, self._max_bytes)
        if stated_bytes > _SMALL_BYTES and inflater is None:
            await self._hold(stated_bytes)
        # As it came from the system: `iter_any` would copy it.
        async for data, _ in answer.content.iter_chunks():
            self._count(len(data))
            if inflater is None:
                await self._add(data)
                continue
            for part in inflater.feed(data):
                await self._add(part)
                # However far it inflates, others have their turn.
                await asyncio.sleep(0)
        if inflater:
            await self._add(inflater.end())
        return b"".join(self._parts)

    def _count(self, size_bytes: int) -> None:
        self._pieces += 1
        self._received_bytes += size_bytes
        is_sure = self._pieces > _FIRST_PIECES
        if is_sure and self._received_bytes < _PIECE_BYTES * self._pieces:
            raise unreadable(_CRUMBS)

    async def _add(self, part: bytes) -> None:
        self._size_bytes += len(part)
        if self._size_bytes > self._max_bytes:
            raise TooLargeError(self._size_bytes, self._max_bytes)
        if self._size_bytes > _SMALL_BYTES and not self.held_bytes:
            await self._hold(self._max_bytes)
        if len(part) >= _PART_BYTES:
            self._parts.append(part)
        elif self._parts and isinstance(tail := self._parts[-1], bytearray):
            tail += part
        else:
            self._parts.append(bytearray(part))

    async def _hold(self, size_bytes: int) -> None:
        await self._budget.take(size_bytes)
        self.held_bytes = size_bytes
