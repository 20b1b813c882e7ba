"""Image bytes beside the queue (claim check): a Redis key per image, deleted once it has a result.

In the message they would be base64 twice (1.78 times the size) and be written again as unacked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import redis

from worker.contract.keys import DEFAULT_KEYS, Keys
from worker.contract.messages import waiting_s
from worker.contract.redis.errors import without_command


class BlobStore:
    """Image bytes in Redis, until their result is stored, or for as long as a message may wait.

    Those that are kept for a person stay for `ttl_s` seconds.

    They are named by `keys.blob`.
    """

    def __init__(self, client: redis.Redis, ttl_s: int, keys: Keys = DEFAULT_KEYS) -> None:
        self.keys = keys
        self._client: Any = client
        self._ttl_s = ttl_s

    def put(self, blobs: Mapping[str, bytes], ttl_s: int | None = None) -> None:
        """Store bytes by key, in one round trip; for `ttl_s` seconds, or while they are waited for.

        Raises:
            redis.RedisError: Redis is away or refuses; the error repeats no bytes.
        """
        seconds = ttl_s or waiting_s(self._ttl_s)
        with self._client.pipeline(transaction=False) as pipe:
            for key, data in blobs.items():
                pipe.set(key, data, ex=seconds)
            try:
                pipe.execute()
            except redis.ResponseError as e:
                # redis-py repeats the command. From None: a traceback would show it all the same.
                raise without_command(e) from None

    def keep(self, keys: Iterable[str]) -> None:
        """Let bytes expire like results: a person may still want them."""
        with self._client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.expire(key, self._ttl_s)
            pipe.execute()

    def get(self, key: str) -> bytes | None:
        """Return the bytes, or None if they are gone."""
        data: bytes | None = self._client.get(key)
        return data

    def copy(self, key: str, other: str) -> None:
        """Store bytes under another key too, with the same expiry; do nothing if they are gone."""
        self._client.copy(key, other)

    def drop(self, keys: Iterable[str]) -> None:
        """Free the bytes of images whose results are stored."""
        names = list(keys)
        if names:
            self._client.unlink(*names)
