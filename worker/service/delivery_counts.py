"""Chunks that are delivered again because a worker died: how often, and with which image.

A chunk's first delivery costs nothing here. A redelivery is counted, and its images are attempted
one by one, each marked meanwhile: a mark that is still there shows which image killed the worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from worker.contract.keys import DEFAULT_KEYS, Keys
from worker.contract.redis.scripts import Script

if TYPE_CHECKING:
    import redis

    from worker.contract.messages import Chunk

_DELIVERIES: Final = "deliveries"
_DONE: Final = 0

# Counts a delivery or an attempt, unless the chunk has its results: then another worker was faster.
# KEYS: the chunk's attempts, the job's bits. ARGV: seq, field, ttl_s. Returns the count, 0 if done.
_COUNT: Final = """
if redis.call('GETBIT', KEYS[2], ARGV[1]) == 1 then return 0 end
local count = redis.call('HINCRBY', KEYS[1], ARGV[2], 1)
redis.call('EXPIRE', KEYS[1], ARGV[3])
return count
"""


class ChunkDoneError(Exception):
    """The chunk's results are stored: nothing is left to do."""


class Deliveries:
    """Counts, per chunk, deliveries after the first, and attempts that have not ended.

    The counts are deleted when the chunk's results are stored (`JobStore.finish_chunk`).
    """

    def __init__(self, client: redis.Redis, ttl_s: int, keys: Keys = DEFAULT_KEYS) -> None:
        self._keys = keys
        self._client: Any = client
        self._ttl_s = ttl_s
        self._count = Script(client, _COUNT)

    def again(self, chunk: Chunk) -> int:
        """Count a delivery that is not the first; return how many there have been, so 2 or more.

        Raises:
            ChunkDoneError: an earlier delivery has stored the results.
        """
        return 1 + self._add(chunk, _DELIVERIES)

    def begin(self, chunk: Chunk, index: int) -> int:
        """Mark image `index` as attempted; return how many attempts have begun and not ended.

        Raises:
            ChunkDoneError: an earlier delivery has stored the results.
        """
        return self._add(chunk, str(index))

    def end(self, chunk: Chunk, index: int) -> None:
        """Remove the marks of an image whose attempt has ended, well or not."""
        self._client.hdel(self._keys.attempts(chunk.task_id), str(index))

    def _add(self, chunk: Chunk, field: str) -> int:
        keys = [self._keys.attempts(chunk.task_id), self._keys.done(chunk.job)]
        count = self._count(keys=keys, args=[chunk.seq, field, self._ttl_s])
        if count == _DONE:
            raise ChunkDoneError(chunk.task_id)
        return int(count)
