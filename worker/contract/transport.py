"""Kombu's Redis transport, with one client a channel instead of one an operation.

Kombu makes a new client of redis-py whenever it acknowledges, publishes or polls. A client is only
a handle on the pool of connections, and may be shared by threads; but in redis-py 8 making one
fills a table of some two hundred entries, and took a fifth of the worker's main thread.
"""

from __future__ import annotations

from typing import Any

from kombu.transport import redis as kombu_redis


class Channel(kombu_redis.Channel):
    """Keeps the client for as long as its pool of connections lives."""

    _kept: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's
        if asynchronous:
            # These hold a connection of their own, and kombu keeps them itself.
            return super()._create_client(asynchronous=True)
        # After a broken connection or a fork the pool is another one.
        if self._kept is None or self._kept.connection_pool is not self.pool:
            self._kept = super()._create_client()
        return self._kept


class Transport(kombu_redis.Transport):
    """Kombu's own with these channels."""

    Channel = Channel
