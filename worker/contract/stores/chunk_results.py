"""Job id, numbers of chunks -> their results, as the result backend has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from worker.contract import legacy
from worker.contract.keys import Keys
from worker.contract.messages import ChunkResult, task_id
from worker.contract.stores.job_records import (
    LOST_ERROR,
    LOST_REASON,
    LostChunk,
    failed_body,
    outcome,
)

if TYPE_CHECKING:
    import redis

Names = list[str]

# Jobs about which something is remembered here.
_MOST_JOBS: Final = 1024
# So many keys are named in one round trip.
_KEYS_AT_ONCE: Final = 1000


class ChunkResults:
    """Reads, keeps and frees results in `client`; the jobs' records are in `records`."""

    def __init__(self, client: redis.Redis, records: redis.Redis, keys: Keys) -> None:
        self._client: Any = client
        self._records: Any = records
        self._keys = keys
        # Jobs whose results were fetched, and whether a version before the prefix created them.
        self._legacy_jobs: dict[str, bool] = {}

    def collect(
        self, job_id: str, seqs: Sequence[int], *, keep_s: int = 0
    ) -> Sequence[ChunkResult | LostChunk]:
        """Return what is there of these chunks, in one round trip.

        Chunks that are not finished are left out. With `keep_s`, those that are there are kept for
        so many seconds more.
        """
        if not seqs:
            return []
        bodies = self._client.mget(map(self._keys.result, _tasks(job_id, seqs)))
        if self._is_legacy(job_id):
            older = self._client.mget(map(legacy.result, _tasks(job_id, seqs)))
            bodies = [body or old for body, old in zip(bodies, older, strict=True)]
        found = [(seq, body) for seq, body in zip(seqs, bodies, strict=True) if body]
        if keep_s:
            self.keep(job_id, [seq for seq, _ in found], keep_s)
        return [outcome(seq, body) for seq, body in found]

    def keep(self, job_id: str, seqs: Sequence[int], seconds: int) -> None:
        """Let results expire in so many seconds: once for a job, not with each of its results."""
        for start in range(0, len(seqs), _KEYS_AT_ONCE):
            with self._client.pipeline(transaction=False) as pipe:
                for key in self._names(job_id, seqs[start : start + _KEYS_AT_ONCE]):
                    pipe.expire(key, seconds)
                pipe.execute()

    def drop(self, job_id: str, seqs: Iterable[int]) -> None:
        """Free the results of chunks that are safe elsewhere."""
        if keys := self._names(job_id, [*seqs]):
            self._client.unlink(*keys)

    def add_lost(self, job_id: str, seqs: Sequence[int], seconds: int) -> None:
        """Store for so many seconds that the messages of these chunks are gone."""
        for start in range(0, len(seqs), _KEYS_AT_ONCE):
            with self._client.pipeline(transaction=False) as pipe:
                for name in _tasks(job_id, seqs[start : start + _KEYS_AT_ONCE]):
                    body = failed_body(name, LOST_ERROR, LOST_REASON)
                    # One that was revoked has a result of Celery's.
                    pipe.set(self._keys.result(name), body, ex=seconds, nx=True)
                pipe.execute()

    def _names(self, job_id: str, seqs: Sequence[int]) -> Names:
        """Return where results are, or may be if a version before the prefix made the job."""
        keys = [*map(self._keys.result, _tasks(job_id, seqs))]
        if keys and self._is_legacy(job_id):
            keys += map(legacy.result, _tasks(job_id, seqs))
        return keys

    def _is_legacy(self, job_id: str) -> bool:
        """Whether a version before the prefix has created the job; its record is asked once."""
        known = self._legacy_jobs.get(job_id)
        if known is None:
            if len(self._legacy_jobs) >= _MOST_JOBS:
                self._legacy_jobs.clear()
            key = self._keys.job(job_id)
            created, prefix = self._records.hmget(key, "created_at_s", legacy.JOB_FIELD)
            known = created is not None and prefix is None and legacy.is_served(self._keys)
            self._legacy_jobs[job_id] = known
        return known


def _tasks(job_id: str, seqs: Iterable[int]) -> Names:
    return [task_id(job_id, seq) for seq in seqs]
