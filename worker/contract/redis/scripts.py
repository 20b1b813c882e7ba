"""A script that Redis runs by its hash, however often its scripts are flushed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import redis


class Script:
    """A script at one Redis. Where that does not know it (yet, or any more), it is sent whole.

    redis-py's own loads it then and names it again: it may be gone once more by that time.
    """

    def __init__(self, client: redis.Redis, text: str) -> None:
        self._client: Any = client
        self._text = text
        # The name that Redis gives it, which is no secret.
        self._sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, keys: Sequence[str], args: Iterable[Any] = ()) -> Any:
        """Return what it returns.

        Raises:
            redis.RedisError: Redis is away, or refuses.
        """
        given = (len(keys), *keys, *args)
        try:
            return self._client.evalsha(self._sha, *given)
        except redis.exceptions.NoScriptError:
            return self._client.eval(self._text, *given)
