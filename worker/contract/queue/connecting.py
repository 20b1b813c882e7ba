"""A URL with its password -> the connections of kombu's Redis transport, made as all of ours are.

Kombu has a transport for each kind of Redis, each parses URLs in its own way, and the one for
sentinels loses the password when it turns to the second of them. Here the URL, parsed once, comes
by its number, and kombu sees a URL that it need not understand.
"""

from __future__ import annotations

from typing import Any

import redis
from kombu.transport import redis as kombu_redis

from worker.contract.queue.url_numbers import URL_NUMBER, url_of
from worker.contract.redis.pools import make_pool


class ConnectingChannel(kombu_redis.Channel):
    """Kombu's channel with pools of ours."""

    url_number: int
    keyprefix_fanout: str
    from_transport_options = (*kombu_redis.Channel.from_transport_options, URL_NUMBER)

    def _get_pool(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's
        address = url_of(self.url_number).address
        self.keyprefix_fanout = self.keyprefix_fanout.format(db=address.db)
        return make_pool(
            address,
            derive=self._watched if asynchronous else _as_it_is,
            max_connections=self.max_connections,
        )

    def has_moved(self) -> bool:
        """Whether another server is the master now: all connections should be made anew."""
        return bool(getattr(self.pool, "moves", 0))

    def _watched(self, kind: type) -> type:
        """Return a class of connections that tells kombu's poller when one is closed."""
        channel = self

        class Connection(kind):
            def disconnect(self, *arguments: Any, **options: Any) -> None:
                super().disconnect(*arguments, **options)
                if channel._registered:
                    channel._on_connection_disconnect(self)

        return Connection


class ConnectingTransport(kombu_redis.Transport):
    """Kombu's transport, which does not look into URLs."""

    can_parse_url = True
    # As long as no connection tries again by itself: see `make_pool`.
    supports_batch_publish = True

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:  # noqa: ARG002, FBT001, FBT002 - kombu's
        """Return what kombu has for a URL: it holds no password."""
        return uri


def _as_it_is(kind: type[redis.Connection]) -> type[redis.Connection]:
    return kind
