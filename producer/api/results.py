"""Job id -> its records as lines of JSON, as they come: a task for each client, and no thread."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

from producer.api.errors import RefusedError
from producer.api.jobs import ApiJobs
from producer.api.watches import LOOK_S, BrokenError, Watches
from producer.backend.connection import Connection
from producer.formats.jsonl import line_of

MOST_STREAMS: Final = 2000
# A client that reads slowly has about so many bytes in memory; at the connection, this much.
_BLOCK_BYTES: Final = 256 * 1024
_PIECE_BYTES: Final = 64 * 1024
_MOST_CHUNKS: Final = 64
_THREADS: Final = 4
_STOPS: Final = "the server stops"
_SET: Final = re.compile(rb"[^\0]+", re.DOTALL)


class Block(NamedTuple):
    """Lines of some chunks, and which of them had results."""

    lines: bytes
    found: tuple[int, ...]


class ResultStreams:
    """All streams of records of this server. Used within one event loop."""

    def __init__(self, connection: Connection, jobs: ApiJobs) -> None:
        self._connection = connection
        self._jobs = jobs
        self._pool = ThreadPoolExecutor(_THREADS, "results")
        self._watches = Watches(jobs, ThreadPoolExecutor(1, "watches"))
        self._streams = 0
        self._is_stopped = False
        # What is being read, for all who want the same.
        self._reading: dict[tuple[str, tuple[int, ...]], asyncio.Future[Block]] = {}

    def stop(self) -> None:
        """End all streams, so that clients see that they are not complete."""
        self._is_stopped = True
        self._watches.fail(BrokenError(_STOPS))

    async def open(self, job_id: str, *, follow: bool) -> AsyncIterator[bytes]:
        """Return a stream of records: of those that are there or, to `follow`, until the end.

        Raises:
            NoSuchJobError: there is no such job.
            RefusedError: there are too many streams.
        """
        if self._streams >= MOST_STREAMS:
            raise RefusedError(429, "busy", "too many clients read results; try again")
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._pool, self._jobs.progress, [job_id])
        if job_id not in found:
            # Which says so.
            await loop.run_in_executor(self._pool, self._connection.jobs.get, job_id)
        return self._follow(job_id) if follow else self._once(job_id, found[job_id][1])

    async def _once(self, job_id: str, done: bytes) -> AsyncIterator[bytes]:
        self._streams += 1
        try:
            async for piece in self._new(job_id, done, bytearray()):
                yield piece
        finally:
            self._streams -= 1

    async def _follow(self, job_id: str) -> AsyncIterator[bytes]:
        sent, version = bytearray(), 0
        self._streams += 1
        try:
            async with self._watches.of(job_id) as watch:
                while True:
                    job = await watch.newer_than(version)
                    version = watch.version
                    async for piece in self._new(job_id, watch.done, sent):
                        yield piece
                    if job.finished:
                        break
                if bytes(sent) != watch.done:
                    # What is counted as lost has its result a moment later.
                    await asyncio.sleep(LOOK_S)
                    async for piece in self._new(job_id, watch.done, sent):
                        yield piece
        finally:
            self._streams -= 1

    async def _new(self, job_id: str, done: bytes, sent: bytearray) -> AsyncIterator[bytes]:
        """Yield the lines of chunks that are done and were not sent; note them as sent."""
        sent.extend(bytes(len(done) - len(sent)))
        asked, some, most = _bits(done, sent), [], 1
        for seq in asked:
            some.append(seq)
            if len(some) < most:
                continue
            block = await self._block(job_id, tuple(some), sent)
            for piece in _pieces(block.lines):
                yield piece
            most = max(1, min(_MOST_CHUNKS, _BLOCK_BYTES * len(some) // (len(block.lines) or 1)))
            some = []
        if some:
            for piece in _pieces((await self._block(job_id, tuple(some), sent)).lines):
                yield piece

    async def _block(self, job_id: str, seqs: tuple[int, ...], sent: bytearray) -> Block:
        """Return the lines of some chunks; who asks for the same meanwhile gets the same."""
        if self._is_stopped:
            raise BrokenError(_STOPS)
        key = (job_id, seqs)
        reading = self._reading.get(key)
        if reading is None:
            loop = asyncio.get_running_loop()
            reading = loop.run_in_executor(self._pool, self._read, job_id, seqs)
            self._reading[key] = reading
            reading.add_done_callback(lambda _: self._reading.pop(key, None))
        block = await asyncio.shield(reading)
        for seq in block.found:
            sent[seq >> 3] |= 0x80 >> (seq & 7)
        return block

    def _read(self, job_id: str, seqs: tuple[int, ...]) -> Block:
        outcomes = self._connection.jobs.collect(job_id, seqs)
        lines = (line_of(record) for outcome in outcomes for record in outcome.records())
        text = "".join(f"{line}\n" for line in lines)
        return Block(text.encode(), tuple(outcome.seq for outcome in outcomes))


def _bits(done: bytes, sent: bytearray) -> Iterator[int]:
    """Yield the numbers of bits that are set in `done` and not in `sent`."""
    new = int.from_bytes(done) & ~int.from_bytes(sent[: len(done)])
    for part in _SET.finditer(new.to_bytes(len(done))):
        for place in range(*part.span()):
            byte = done[place] & ~sent[place]
            yield from (8 * place + bit for bit in range(8) if byte & 0x80 >> bit)


def _pieces(lines: bytes) -> Iterator[bytes]:
    for start in range(0, len(lines), _PIECE_BYTES):
        yield lines[start : start + _PIECE_BYTES]
