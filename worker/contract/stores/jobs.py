"""Job id -> progress and results, in Redis. A job is what one `producer submit` sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec

from worker.contract.i18n import Message
from worker.contract.i18n import gettext_noop as N_
from worker.contract.keys import DEFAULT_KEYS, Keys
from worker.contract.messages import Chunk, ChunkResult, Priority, task_id, waiting_s
from worker.contract.redis.replicas import await_replicas
from worker.contract.redis.scripts import Script
from worker.contract.stores.chunk_results import ChunkResults
from worker.contract.stores.job_records import (
    CODE_FIELD,
    LOST,
    MESSAGE_LOST,
    PATHS,
    Job,
    JobState,
    LostChunk,
    NoSuchJobError,
    job_of,
    new_job_id,
    paths_in,
)
from worker.contract.stores.job_scripts import (
    FINISH_CHUNK,
    LOSE,
    MOVE,
    REOPEN,
    SET_SENT,
    TAKE_BACK,
    TOUCH,
)

if TYPE_CHECKING:
    import redis

__all__ = [
    "LOST",
    "MESSAGE_LOST",
    "PATHS",
    "Job",
    "JobState",
    "JobStore",
    "LostChunk",
    "NoSuchJobError",
    "new_job_id",
    "paths_in",
]

MAX_ABOUT_CHARS: Final = 300
_ID: Final = b"id"
_CREATE_TIMEOUT_S: Final = 10.0


class JobStore:
    """Job records and results in Redis; `results` is the result backend's if it is set apart.

    A job that is finished is kept for `ttl_s` seconds after its last result or the last time that
    it was read, and so are its results. While something of it is not done, both are kept for as
    long as anything may wait (`waiting_s`).
    """

    def __init__(
        self,
        client: redis.Redis,
        ttl_s: int,
        *,
        keys: Keys = DEFAULT_KEYS,
        results: redis.Redis | None = None,
        clock: Callable[[], float] = time.time,
        replicas: int = 0,
    ) -> None:
        self.keys = self._keys = keys
        self._client: Any = client
        self._results: Any = results or client
        self._chunk_results = ChunkResults(self._results, client, keys)
        self._ttl_s = ttl_s
        self._lives_s = (ttl_s, waiting_s(ttl_s))
        self._clock = clock
        self._replicas = replicas
        self._finish = Script(client, FINISH_CHUNK)
        self._move = Script(client, MOVE)
        self._set_sent = Script(client, SET_SENT)
        self._take_back = Script(client, TAKE_BACK)
        self._touch = Script(client, TOUCH)
        self._lose = Script(client, LOSE)
        self._reopen = Script(client, REOPEN)

    def create(self, about: str = "", labels: int = 0, priority: Priority = "normal") -> Job:
        """Record a new job and return it. `about` is text for a person: no bytes of names."""
        now_s = self._clock()
        about = about[:MAX_ABOUT_CHARS]
        job = Job(
            id=new_job_id(now_s),
            created_at_s=now_s,
            about=about,
            labels=labels,
            priority=priority,
            prefix=self._keys.prefix,
        )
        with self._client.pipeline() as pipe:
            fields = msgspec.to_builtins(job)
            del fields["codes"], fields["published"]
            kept_s, waiting_s = self._lives_s
            key = self._keys.job(job.id)
            pipe.hset(key, mapping={name: str(value) for name, value in fields.items()})
            pipe.expire(key, waiting_s)
            pipe.zadd(self._keys.jobs, {job.id: job.created_at_s})
            pipe.zremrangebyscore(self._keys.jobs, 0, self._clock() - max(kept_s * 30, waiting_s))
            pipe.execute()
        try:
            self.confirm_sent(_CREATE_TIMEOUT_S)
        except BaseException:
            # Nobody will ever send anything of it.
            with suppress(Exception):
                self._client.unlink(key)
                self._client.zrem(self._keys.jobs, job.id)
            raise
        return job

    def get(self, job_id: str) -> Job:
        """Return the job's record.

        Raises:
            NoSuchJobError: there is none.
        """
        found = self._client.hgetall(self._keys.job(job_id))
        # A failover may lose the record, and its totals are written again afterwards.
        if _ID not in found:
            raise self._unknown(job_id)
        return job_of(found)

    def progress(self, job_ids: Sequence[str]) -> Mapping[str, tuple[Job, bytes]]:
        """Return jobs with their bits, one per chunk, set for those that are done: one round trip.

        Jobs that are not there are left out. The bits are at least as new as the record.
        """
        with self._client.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hgetall(self._keys.job(job_id))
                pipe.get(self._keys.done(job_id))
            found = pipe.execute()
        pairs = zip(job_ids, found[::2], found[1::2], strict=True)
        return {name: (job_of(one), bits or b"") for name, one, bits in pairs if _ID in one}

    def list(self) -> list[Job]:
        """Return all jobs that are remembered, the newest first."""
        ids = [raw.decode() for raw in self._client.zrevrange(self._keys.jobs, 0, -1)]
        with self._client.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hgetall(self._keys.job(job_id))
            return [job_of(found) for found in pipe.execute() if _ID in found]

    def set_sent(
        self,
        job_id: str,
        *,
        images: int,
        chunks: int,
        published: int | None = None,
        blobs: int = 0,
    ) -> None:
        """Note how many images and chunks are sent, with those that are about to be.

        Totals, not increments: where a connection breaks, the same call may be made twice. So many
        chunks were `published` before; the largest that has blobs has so many.

        Raises:
            NoSuchJobError: there is none.
        """
        totals = {
            "images": images,
            "chunks": chunks,
            "published": published,
            "blobs": blobs or None,
        }
        fields = [one for pair in totals.items() if pair[1] is not None for one in pair]
        keys = [self._keys.job(job_id), self._keys.done(job_id)]
        if not self._set_sent(keys=keys, args=[self._lives_s[1], *fields]):
            raise self._unknown(job_id)

    def take_back(self, job_id: str, images: int, chunks: int, blobs: Sequence[str]) -> None:
        """Note that no more images and chunks than these are sent, and free bytes of the others."""
        keys = [self._keys.job(job_id), self._keys.attempts(job_id), *blobs]
        self._take_back(keys=keys, args=[images, chunks])

    def confirm_sent(self, timeout_s: float) -> None:
        """Wait until as many replicas as asked for have all that was sent so far; 0: not at all.

        Raises:
            ReplicationError: it may be lost: send it again.
        """
        await_replicas(self._client, self._keys, self._replicas, timeout_s)

    def note_sent_again(self, job_id: str, images: int) -> None:
        """Note how many images of a job had been lost by an earlier one, if it is still there."""
        key = self._keys.job(job_id)
        if self._client.exists(key):
            self._client.hset(key, "sent_again", images)

    def set_published(self, job_id: str, chunks: int) -> None:
        """Note that so many chunks are in the queue, and none is on its way."""
        self._client.hset(self._keys.job(job_id), "published", chunks)

    def set_state(self, job_id: str, state: JobState) -> bool:
        """Move the job on; return whether it moved. One that is cancelled or finished stays so.

        Raises:
            NoSuchJobError: there is none.
        """
        keys = [self._keys.job(job_id), self._keys.done(job_id), self._keys.attempts(job_id)]
        there, moved, chunks = self._move(keys=keys, args=[state, *self._lives_s])
        if not there:
            raise self._unknown(job_id)
        self._chunk_results.keep(job_id, range(chunks), self._ttl_s)
        return bool(moved)

    def touch(self, job_id: str) -> int:
        """Keep a job from now on, as it is read; return for how many seconds."""
        return int(
            self._touch(keys=[self._keys.job(job_id), self._keys.done(job_id)], args=self._lives_s)
        )

    def _unknown(self, job_id: str) -> NoSuchJobError:
        hours, seconds = divmod(self._ttl_s, 3600)
        kept = Message(N_("{kept_s} s"), kept_s=self._ttl_s)
        if hours and not seconds:
            kept = Message(N_("{kept_h} h"), kept_h=hours)
        return NoSuchJobError(
            N_("there is no job {job} (records are kept for {kept})"), job=job_id, kept=kept
        )

    def is_cancelled(self, job_id: str) -> bool:
        """Whether the job was cancelled: workers ask again and again."""
        return bool(self._client.hget(self._keys.job(job_id), "state") == b"cancelled")

    def finish_chunk(
        self,
        job_id: str,
        seq: int,
        *,
        images: int,
        failed: int,
        codes: Mapping[str, int] | None = None,
        body: bytes | str = b"",
        key: str | None = None,
        ack_tag: str = "",
    ) -> bool:
        """Count a chunk's images as done, once however often it came; True if counted now.

        `codes` says how many of them failed with which code.

        `body` is the chunk's result in the backend's form; it is stored in the same step, unless
        it was before, at `key` if that is another than usual. The message with the delivery tag
        `ack_tag`, if it is given, is acknowledged in that step, too.
        """
        name = task_id(job_id, seq)
        names = self._keys
        result = key or names.result(name)
        keys = [names.job(job_id), names.done(job_id), result, names.attempts(name)]
        keys += [names.unacked, names.unacked_index]
        added = [part for code, n in (codes or {}).items() for part in (CODE_FIELD + code, n)]
        args = [seq, images, failed, *self._lives_s, body, ack_tag, *added]
        counted, known, chunks = self._finish(keys=keys, args=args)
        if chunks > 1:
            # The job is finished: so long its results are kept from now on.
            self._chunk_results.keep(job_id, range(chunks), self._ttl_s)
        elif known and not body:
            self._results.expire(result, self._lives_s[not chunks])
        return bool(counted)

    def fail_chunk(self, chunk: Chunk, code: str, body: bytes) -> None:
        """Count all images of a chunk as failed; `body` is its result, in the backend's form."""
        if self._results is not self._client:
            key = self._keys.result(chunk.task_id)
            self._results.set(key, body, ex=self._ttl_s, nx=True)
            body = b""
        images = len(chunk.images)
        codes = {code: images}
        self.finish_chunk(
            chunk.job, chunk.seq, images=images, failed=images, codes=codes, body=body
        )

    def lose_chunks(self, job: Job, seqs: Sequence[int], *, images: int) -> bool:
        """Count chunks whose messages are gone as failed, if nothing has come since `job` was read.

        Each gets a result that says so. Return whether they were counted.
        """
        keys = [self._keys.job(job.id), self._keys.done(job.id), self._keys.attempts(job.id)]
        args = [job.done, images, CODE_FIELD + MESSAGE_LOST, *self._lives_s, *seqs]
        counted, chunks = self._lose(keys=keys, args=args)
        if not counted:
            return False
        self._chunk_results.add_lost(job.id, seqs, self._lives_s[not chunks])
        self._chunk_results.keep(job.id, range(chunks), self._ttl_s)
        return True

    def unfinished_chunks(self, job_id: str, chunks: int) -> Sequence[int]:
        """Return those of a job's first `chunks` chunks that have not been counted as done."""
        bits: bytes = self._client.get(self._keys.done(job_id)) or b""
        bits = bits.ljust((chunks + 7) // 8, b"\0")
        return [seq for seq in range(chunks) if not bits[seq >> 3] >> (7 - seq % 8) & 1]

    def reopen_chunk(self, job_id: str, seq: int, *, images: int) -> bool:
        """Count a chunk that was `lost` as not done: it is sent again. Return whether it was."""
        name = task_id(job_id, seq)
        self._results.unlink(self._keys.result(name))
        keys = [self._keys.job(job_id), self._keys.done(job_id), self._keys.attempts(name)]
        args = [seq, images, CODE_FIELD + LOST, self._lives_s[1]]
        return bool(self._reopen(keys=keys, args=args))

    def finished_chunks(self, job_id: str, seqs: Sequence[int]) -> set[int]:
        """Return those of `seqs` that have been counted as done."""
        with self._client.pipeline(transaction=False) as pipe:
            for seq in seqs:
                pipe.getbit(self._keys.done(job_id), seq)
            return {seq for seq, bit in zip(seqs, pipe.execute(), strict=True) if bit}

    def collect(
        self, job_id: str, seqs: Sequence[int], *, keep_s: int = 0
    ) -> Sequence[ChunkResult | LostChunk]:
        """Return what the result backend holds of these chunks, in one round trip.

        Chunks that are not finished are left out. Keep windows to some hundreds of chunks. With
        `keep_s`, those that are there are kept for so many seconds more.
        """
        return self._chunk_results.collect(job_id, seqs, keep_s=keep_s)

    def drop_results(self, job_id: str, seqs: Iterable[int]) -> None:
        """Free the results of chunks that are safe elsewhere."""
        self._chunk_results.drop(job_id, seqs)
