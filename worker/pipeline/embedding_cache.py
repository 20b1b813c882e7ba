"""Bytes of an image -> the embedding that a worker has computed from the same bytes before.

It is in Redis, so all workers of a model share it, and bounded: the least recently used go first.
It holds float32, so an image is tagged the same whether it was seen before or not.

Shapes: D embedding dimensions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import redis
import structlog

if TYPE_CHECKING:
    from worker.artifact.manifest import Artifact
    from worker.contract.settings import Settings

Embedding = npt.NDArray[np.float32]

TTL_S: Final = 30 * 86_400
# KEYS: entry, index by time of last use.
_GET: Final = """
local found = redis.call('GET', KEYS[1])
if found then redis.call('ZADD', KEYS[2], 'XX', redis.call('TIME')[1], KEYS[1]) end
return found
"""
# KEYS: index, entries. ARGV: most entries, ttl_s, values.
_PUT: Final = """
local now = redis.call('TIME')[1]
for n = 2, #KEYS do
  redis.call('SET', KEYS[n], ARGV[n + 1], 'EX', ARGV[2])
  redis.call('ZADD', KEYS[1], now, KEYS[n])
end
local over = redis.call('ZCARD', KEYS[1]) - ARGV[1]
if over > 0 then
  for n, name in ipairs(redis.call('ZPOPMIN', KEYS[1], over)) do
    if n % 2 == 1 then redis.call('UNLINK', name) end
  end
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
return over
"""

log = structlog.get_logger()


class EmbeddingCache:
    """Embeddings by content, for one model and way of decoding. Threads may ask at once.

    Nothing depends on it: while Redis does not answer, every image is a miss.
    """

    def __init__(self, client: redis.Redis, artifact: Artifact, settings: Settings) -> None:
        fast = artifact.manifest.decodes_fast(settings.decode)
        self._client: Any = client
        self._limit = settings.embedding_cache_size
        self._size = artifact.manifest.embedding_dim * np.dtype(np.float32).itemsize
        way = f"{artifact.id}:{'fast' if fast else 'exact'}:{settings.jpeg_max_side}"
        self._index = settings.keys.seen(way)
        self._prefix = f"{self._index}:"
        self.hits = 0

    @property
    def is_on(self) -> bool:
        """Whether anything is stored at all."""
        return self._limit > 0

    def key_of(self, data: bytes) -> str:
        """Return the key of an image: its content."""
        return self._prefix + hashlib.sha256(data).hexdigest()

    def get(self, key: str) -> Embedding | None:
        """Return the embedding, or None for a miss."""
        try:
            found = self._client.eval(_GET, 2, key, self._index)
        except redis.RedisError as e:
            log.warning("cache.failed", error=str(e))
            return None
        if found is None or len(found) != self._size:
            return None
        embedding_D = np.frombuffer(found, np.float32)
        if not np.isfinite(embedding_D).all():
            return None
        self.hits += 1
        return embedding_D

    def put(self, found: Sequence[tuple[str, Embedding]]) -> None:
        """Store embeddings by their keys."""
        if not found:
            return
        keys = [self._index, *(key for key, _ in found)]
        values = [embedding_D.astype(np.float32).tobytes() for _, embedding_D in found]
        try:
            self._client.eval(_PUT, len(keys), *keys, self._limit, TTL_S, *values)
        except redis.RedisError as e:
            log.warning("cache.failed", error=str(e))
