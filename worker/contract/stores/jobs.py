"""Job id -> progress and results, in Redis. A job is what one `producer submit` sent."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from worker.contract import legacy
from worker.contract.codec import decode
from worker.contract.i18n import TranslatedError
from worker.contract.i18n import gettext_noop as N_
from worker.contract.keys import DEFAULT_KEYS, Keys
from worker.contract.messages import (
    MAX_PATH_CHARS,
    ChunkResult,
    Failure,
    MessageError,
    Priority,
    Record,
    task_id,
)
from worker.contract.redis.replicas import await_replicas

if TYPE_CHECKING:
    import redis

Names = list[str]
JobState = Literal["submitting", "submitted", "interrupted", "cancelled"]

MAX_ABOUT_CHARS: Final = 300
_CODE: Final = "failed:"
# Jobs about which something is remembered here.
_MOST_JOBS: Final = 1024
# Of images that no worker has answered for.
LOST: Final = "lost"
# In the result of a chunk that failed as a whole: the paths of its images.
PATHS: Final = "paths"
_ID: Final = b"id"
_CREATE_TIMEOUT_S: Final = 10.0

# A redelivered chunk finds its bit set: its first result stays, and nothing is counted. The result
# is published too, as Celery's backend does: applications that wait by `AsyncResult` are notified.
# What is known of attempts is deleted.
# KEYS: job, its bits, result, the chunk's attempts. ARGV: seq, images, failed, ttl_s, the result's
# body or "", and fields of the job with how many to add to each.
_FINISH_CHUNK: Final = """
local again = redis.call('GETBIT', KEYS[2], ARGV[1]) == 1
redis.call('UNLINK', KEYS[4])
if ARGV[5] ~= '' and not again then
  redis.call('SETEX', KEYS[3], ARGV[4], ARGV[5])
  redis.call('PUBLISH', KEYS[3], ARGV[5])
end
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('EXPIRE', KEYS[1], ARGV[4])
if again then return 0 end
redis.call('SETBIT', KEYS[2], ARGV[1], 1)
redis.call('EXPIRE', KEYS[2], ARGV[4])
redis.call('HINCRBY', KEYS[1], 'done', ARGV[2])
redis.call('HINCRBY', KEYS[1], 'failed', ARGV[3])
for n = 6, #ARGV, 2 do redis.call('HINCRBY', KEYS[1], ARGV[n], ARGV[n + 1]) end
return 1
"""


# A job that is cancelled or finished stays so; it may finish between a look and a change.
# KEYS: job. ARGV: state. Return whether there is such a job, and whether it moved.
_MOVE: Final = """
local found = redis.call('HMGET', KEYS[1], 'state', 'done', 'images')
local state = found[1]
if not state then return {0, 0} end
local finished = state ~= 'submitting' and tonumber(found[2] or 0) >= tonumber(found[3] or 0)
if finished or state == 'cancelled' or state == ARGV[1] then return {1, 0} end
redis.call('HSET', KEYS[1], 'state', ARGV[1])
return {1, 1}
"""


# KEYS: job. ARGV: images, chunks, ttl_s. Return whether there is such a job: one that a Redis has
# lost must not come back as half a record.
_SET_SENT: Final = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'images', ARGV[1], 'chunks', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
"""


class NoSuchJobError(TranslatedError, LookupError):
    """There is no job with this id, or it has expired."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job's record. `images` and `chunks` count what was sent, `done` what has results.

    `failed` is part of `done`, and `codes` says why. Times are seconds since the epoch. `about` is
    what was asked for, for a person, and `labels` how many; 0 is the model's own.
    """

    id: str
    created_at_s: float
    state: JobState = "submitting"
    images: int = 0
    chunks: int = 0
    done: int = 0
    failed: int = 0
    codes: Mapping[str, int] = {}
    about: str = ""
    labels: int = 0
    priority: Priority = "normal"

    @property
    def finished(self) -> bool:
        """Whether every image sent has its result and no more will be sent."""
        return self.state != "submitting" and self.done >= self.images

    @property
    def status(self) -> str:
        """Where the job stands, in a word: its state, or `finished`."""
        if self.state in {"cancelled", "interrupted"}:
            return self.state
        return "finished" if self.finished else self.state

    @property
    def outstanding(self) -> int:
        """Images sent that have no result yet."""
        return max(0, self.images - self.done)


class LostChunk(msgspec.Struct, frozen=True):
    """A chunk that failed as a whole: it has no results, only the reason.

    `paths` are those of its images, as far as they are known.
    """

    seq: int
    reason: str
    paths: tuple[str, ...] = ()

    def records(self) -> list[Record]:
        """Return a failed record of each image that is known."""
        failure = Failure(LOST, "job", f"there is no result of its chunk: {self.reason}")
        return [Record.untouched(path, failure) for path in self.paths]


def new_job_id(now_s: float | None = None) -> str:
    """Return a fresh id that sorts by time, such as `20261123-181502-5f3a9c`."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(time.time() if now_s is None else now_s))
    return f"{stamp}-{secrets.token_hex(3)}"


class JobStore:
    """Job records and results in Redis; `results` is the result backend's if it is set apart."""

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
        self._keys = keys
        self._client: Any = client
        self._results: Any = results or client
        self._ttl_s = ttl_s
        self._clock = clock
        # Jobs whose results were fetched, and whether a version before the prefix created them.
        self._legacy_jobs: dict[str, bool] = {}
        self._replicas = replicas
        self._finish: Any = client.register_script(_FINISH_CHUNK)
        self._move: Any = client.register_script(_MOVE)
        self._set_sent: Any = client.register_script(_SET_SENT)

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
        )
        with self._client.pipeline() as pipe:
            fields = msgspec.to_builtins(job)
            del fields["codes"]
            fields[legacy.JOB_FIELD] = self._keys.prefix
            key = self._keys.job(job.id)
            pipe.hset(key, mapping={name: str(value) for name, value in fields.items()})
            pipe.expire(key, self._ttl_s)
            pipe.zadd(self._keys.jobs, {job.id: job.created_at_s})
            pipe.zremrangebyscore(self._keys.jobs, 0, self._clock() - self._ttl_s * 30)
            pipe.execute()
        self.confirm_sent(_CREATE_TIMEOUT_S)
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
        return _job(found)

    def list(self) -> list[Job]:
        """Return all jobs that are remembered, the newest first."""
        ids = [raw.decode() for raw in self._client.zrevrange(self._keys.jobs, 0, -1)]
        with self._client.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hgetall(self._keys.job(job_id))
            return [_job(found) for found in pipe.execute() if _ID in found]

    def set_sent(self, job_id: str, *, images: int, chunks: int) -> None:
        """Note how many images and chunks are sent, with those that are about to be.

        Totals, not increments: where a connection breaks, the same call may be made twice.

        Raises:
            NoSuchJobError: there is none.
        """
        key = self._keys.job(job_id)
        if not self._set_sent(keys=[key], args=[images, chunks, self._ttl_s]):
            raise self._unknown(job_id)

    def confirm_sent(self, timeout_s: float) -> None:
        """Wait until as many replicas as asked for have all that was sent so far; 0: not at all.

        Raises:
            ReplicationError: it may be lost: send it again.
        """
        await_replicas(self._client, self._keys, self._replicas, timeout_s)

    def set_state(self, job_id: str, state: JobState) -> bool:
        """Move the job on; return whether it moved. One that is cancelled or finished stays so.

        Raises:
            NoSuchJobError: there is none.
        """
        there, moved = self._move(keys=[self._keys.job(job_id)], args=[state])
        if not there:
            raise self._unknown(job_id)
        return bool(moved)

    def _unknown(self, job_id: str) -> NoSuchJobError:
        kept_h = self._ttl_s // 3600
        return NoSuchJobError(
            N_("there is no job {job} (records are kept for {kept_h} h)"), job=job_id, kept_h=kept_h
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
    ) -> bool:
        """Count a chunk's images as done, once however often it came; True if counted now.

        `codes` says how many of them failed with which code.

        `body` is the chunk's result in the backend's form; it is stored in the same step, unless
        it was before, at `key` if that is another than usual.
        """
        name = task_id(job_id, seq)
        names = self._keys
        result = key or names.result(name)
        keys = [names.job(job_id), names.done(job_id), result, names.attempts(name)]
        added = [part for code, n in (codes or {}).items() for part in (_CODE + code, n)]
        return bool(self._finish(keys=keys, args=[seq, images, failed, self._ttl_s, body, *added]))

    def finished_chunks(self, job_id: str, seqs: Sequence[int]) -> set[int]:
        """Return those of `seqs` that have been counted as done."""
        with self._client.pipeline(transaction=False) as pipe:
            for seq in seqs:
                pipe.getbit(self._keys.done(job_id), seq)
            return {seq for seq, bit in zip(seqs, pipe.execute(), strict=True) if bit}

    def collect(self, job_id: str, seqs: Sequence[int]) -> Sequence[ChunkResult | LostChunk]:
        """Return what the result backend holds of these chunks, in one round trip.

        Chunks that are not finished are left out. Keep windows to some hundreds of chunks.
        """
        if not seqs:
            return []
        bodies = self._results.mget(self._result_keys(job_id, seqs))
        if self._is_legacy(job_id):
            older = self._results.mget([legacy.result(task_id(job_id, seq)) for seq in seqs])
            bodies = [body or old for body, old in zip(bodies, older, strict=True)]
        return [_outcome(seq, body) for seq, body in zip(seqs, bodies, strict=True) if body]

    def drop_results(self, job_id: str, seqs: Iterable[int]) -> None:
        """Free the results of chunks that are safe elsewhere."""
        seqs = [*seqs]
        keys = self._result_keys(job_id, seqs)
        if keys and self._is_legacy(job_id):
            keys += [legacy.result(task_id(job_id, seq)) for seq in seqs]
        if keys:
            self._results.unlink(*keys)

    def _result_keys(self, job_id: str, seqs: Iterable[int]) -> Names:
        return [self._keys.result(task_id(job_id, seq)) for seq in seqs]

    def _is_legacy(self, job_id: str) -> bool:
        """Whether a version before the prefix has created the job; its record is asked once."""
        known = self._legacy_jobs.get(job_id)
        if known is None:
            if len(self._legacy_jobs) >= _MOST_JOBS:
                self._legacy_jobs.clear()
            key = self._keys.job(job_id)
            created, prefix = self._client.hmget(key, "created_at_s", legacy.JOB_FIELD)
            known = created is not None and prefix is None and legacy.is_served(self._keys)
            self._legacy_jobs[job_id] = known
        return known


def _outcome(seq: int, body: bytes) -> ChunkResult | LostChunk:
    meta = decode(body)
    result = meta.get("result")
    if meta.get("status") != "SUCCESS":
        reason = f"{meta.get('status')}: {_message(result)}"
        return LostChunk(seq, reason, _paths(meta.get(PATHS)))
    try:
        return ChunkResult.from_wire(result)
    except MessageError as e:
        return LostChunk(seq, str(e), paths_in(result))


def paths_in(wire: object) -> tuple[str, ...]:
    """Return the paths of the images in what should be a chunk or its result, but is none."""
    images = wire.get("images") if isinstance(wire, dict) else None
    listed = images if isinstance(images, list | tuple) else ()
    return _paths([one.get("path") if isinstance(one, dict) else None for one in listed])


def _paths(found: object) -> tuple[str, ...]:
    paths = found if isinstance(found, list) else []
    return tuple(one for one in paths if isinstance(one, str) and 0 < len(one) <= MAX_PATH_CHARS)


def _message(error: Any) -> str:
    """Return the type and the message of an exception as Celery stores it."""
    if isinstance(error, dict):
        return f"{error.get('exc_type')}: {error.get('exc_message')}"
    return str(error)


def _job(found: dict[bytes, bytes]) -> Job:
    # Fields of a newer version are passed over.
    fields: dict[str, Any] = {
        key.decode(errors="replace"): value.decode(errors="replace") for key, value in found.items()
    }
    codes = {name.removeprefix(_CODE): n for name, n in fields.items() if name.startswith(_CODE)}
    return msgspec.convert(fields | {"codes": codes}, Job, strict=False)
