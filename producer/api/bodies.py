"""Bodies of requests, as they come -> read to the end, within bounds of bytes and time, then used.

::

    client --read--> memory or a temporary file --admitted--> route --released--> (nothing kept)

Who sends slowly costs a connection and what was sent so far: nothing that works on a request waits
for a client. All bounds are of this process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Final

from starlette.types import Message, Receive, Scope

from producer.api.body import Body
from producer.api.byte_semaphore import ByteSemaphore
from producer.api.errors import RefusedError

# A body is kept in memory up to this size, as long as all of them together are below the other.
OWN_MEMORY_BYTES: Final = 2**20
MEMORY_BYTES: Final = 16 * 2**20
# Bytes of bodies that are not complete, over all clients; beyond memory they are in a file.
UNFINISHED_BYTES: Final = 2**30
# Bytes of complete bodies that are worked on at a time; a larger one is alone.
WORKED_ON_BYTES: Final = 32 * 2**20
URGENT_PATH: Final = "/predict"
# What is parsed takes several times its size.
JSON_WEIGHT: Final = 4

# Without a byte for so long, or more slowly than this after the first seconds, a body ends.
SILENT_S: Final = 20.0
SLOW_AFTER_S: Final = 30.0
SLOW_BYTES_PER_S: Final = 16 * 1024
# Where bytes are short, those of who has sent none for so long are ended first.
_IDLE_S: Final = 1.0
_WRITERS: Final = 4
_RELEASE: Final = "wanwu.release"


class HungUpError(Exception):
    """The client is gone: nobody reads an answer."""


class Bodies:
    """All bodies that come to this server."""

    def __init__(self, unfinished_bytes: int = UNFINISHED_BYTES) -> None:
        self._most_bytes = unfinished_bytes
        self._unfinished: set[Body] = set()
        self._bytes = self._in_memory_bytes = 0
        self._writers = ThreadPoolExecutor(_WRITERS, "bodies")
        # Apart: who uploads to a job may wait for others, and who wants one answer need not.
        self._worked_on = ByteSemaphore(WORKED_ON_BYTES)
        self._urgent = ByteSemaphore(WORKED_ON_BYTES)

    def refuse_all(self) -> None:
        """End all bodies that are not complete: the server stops."""
        for body in self._unfinished:
            body.end(RefusedError(503, "stopping", "the server stops"))

    @asynccontextmanager
    async def read(self, receive: Receive, most_bytes: int) -> AsyncIterator[Body]:
        """Yield a body that is complete; nothing is kept after the block.

        Raises:
            RefusedError: it is too large, too slow, or there is no room for it now.
            HungUpError: the client is gone.
        """
        body = Body()
        self._unfinished.add(body)
        try:
            await self._read(body, receive, most_bytes)
            self._unfinished.discard(body)
            body.rewind()
            yield body
        finally:
            self._unfinished.discard(body)
            self._forget(body)

    def replayed(self, body: Body, receive: Receive) -> Receive:
        """Return what gives a body to a route; after its end, what the client does next."""
        ended = False

        async def next_message() -> Message:
            nonlocal ended
            if ended:
                return await receive()
            piece = await self._next_piece(body)
            ended = not piece
            if ended:
                self._forget(body)
            return {"type": "http.request", "body": piece, "more_body": not ended}

        return next_message

    async def _next_piece(self, body: Body) -> bytes:
        if body.is_in_file:
            loop = asyncio.get_running_loop()
            return bytes(await _finished(loop.run_in_executor(self._writers, body.next)))
        return body.next()

    def _forget(self, body: Body) -> None:
        """Free all of a body; it may be done twice."""
        self._bytes -= body.size_bytes
        self._in_memory_bytes -= body.in_memory_bytes
        body.size_bytes = body.in_memory_bytes = 0
        body.close()

    @asynccontextmanager
    async def admitted(self, scope: Scope, weight_bytes: int) -> AsyncIterator[None]:
        """Wait until a body of this weight may be worked on; it counts until it is released."""
        semaphore = self._urgent if scope["path"] == URGENT_PATH else self._worked_on
        async with semaphore.holding(weight_bytes) as release:
            scope[_RELEASE] = release
            yield

    async def _read(self, body: Body, receive: Receive, most_bytes: int) -> None:
        began_s = time.monotonic()
        while True:
            message = await self._next(body, receive, began_s)
            if message["type"] == "http.disconnect":
                raise HungUpError
            piece = message.get("body", b"")
            if body.size_bytes + len(piece) > most_bytes:
                raise RefusedError(413, "too_large", f"the body has more than {most_bytes:,} bytes")
            if piece:
                await self._take(body, piece)
            if not message.get("more_body", False):
                return

    async def _next(self, body: Body, receive: Receive, began_s: float) -> Message:
        """Return the next message, if it comes in time."""
        late_s = began_s + SLOW_AFTER_S + body.size_bytes / SLOW_BYTES_PER_S
        try:
            async with asyncio.timeout(min(SILENT_S, late_s - time.monotonic())) as body.reading:
                if body.refusal is not None:
                    raise body.refusal
                message = await receive()
        except TimeoutError as e:
            slow = RefusedError(408, "too_slow", "the body has not come in time")
            raise body.refusal or slow from e
        finally:
            body.reading = None
        body.heard_s = time.monotonic()
        return message

    async def _take(self, body: Body, piece: bytes) -> None:
        """Keep a piece, in memory or in a file."""
        size = len(piece)
        self._make_room(body, size)
        self._bytes += size
        body.note(piece)
        is_small = body.in_memory_bytes + size <= OWN_MEMORY_BYTES
        fits = is_small and self._in_memory_bytes + size <= MEMORY_BYTES
        if fits and not body.is_in_file:
            body.keep(piece)
            self._in_memory_bytes += size
            return
        loop = asyncio.get_running_loop()
        try:
            # To the end, also when it is cancelled: a file is not closed while it is written.
            writing = loop.run_in_executor(self._writers, body.write, piece)
            await _finished(writing)
        except OSError as e:
            raise RefusedError(503, "no_room", "there is no room for uploads; try again") from e
        self._in_memory_bytes -= body.in_memory_bytes
        body.in_memory_bytes = 0

    def _make_room(self, body: Body, size: int) -> None:
        """Give up bodies of clients that have fallen silent, the most silent first, if need be."""
        if self._bytes + size <= self._most_bytes:
            return
        now_s, free = time.monotonic(), self._most_bytes - self._bytes
        for other in sorted(self._unfinished - {body}, key=lambda one: one.heard_s):
            if free >= size or now_s - other.heard_s < _IDLE_S:
                break
            if other.refusal is None and other.size_bytes:
                other.end(RefusedError(408, "too_slow", "others need the room: send it again"))
                free += other.size_bytes
        if free < size:
            raise RefusedError(429, "busy", "too many bytes are being uploaded; try again")


def release(scope: Scope) -> None:
    """Say that the bytes of a request are not in memory any more."""
    if done := scope.get(_RELEASE):
        done()


async def _finished(doing: asyncio.Future[Any]) -> Any:
    """Return what a thread returns, and wait for its end whatever happens to who waits."""
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        if not doing.done():
            await asyncio.wait([doing])
        raise
