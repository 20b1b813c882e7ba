"""Kombu's channel of Redis, with our prefix before each name.

Everything in Redis has the names that kombu's option `global_keyprefix` gives. Kombu's own client
for it changes the keys of some commands and leaves those of others, BLMOVE among them; here a name
is written out where it is made, and every command has the whole name.
"""

from __future__ import annotations

from functools import cached_property

from kombu.transport import redis as kombu_redis

from worker.contract.keys import Keys
from worker.contract.queue.app import PREFIX_OPTION
from worker.contract.queue.connecting import ConnectingChannel


class PrefixedChannel(ConnectingChannel):
    """Uses only names of `keys`, for lists, hashes, and channels of remote control and events."""

    # Without the option, kombu's own client for it is not used.
    from_transport_options = tuple(
        name for name in ConnectingChannel.from_transport_options if name != PREFIX_OPTION
    )

    @cached_property
    def keys(self) -> Keys:
        """The names of everything in Redis."""
        return Keys(self.connection.client.transport_options[PREFIX_OPTION])

    @property
    def unacked_key(self) -> str:
        """Name of the messages that are held."""
        return self.keys.unacked

    @property
    def unacked_index_key(self) -> str:
        """Name of their leases."""
        return self.keys.unacked_index

    @property
    def keyprefix_queue(self) -> str:
        """Name of the queues that are bound to an exchange."""
        return f"{self.keys.prefix}{kombu_redis.Channel.keyprefix_queue}"

    @property
    def keyprefix_binding_deadlines(self) -> str:
        """Name of what kombu notes of bindings that expire."""
        return f"{self.keys.prefix}{kombu_redis.Channel.keyprefix_binding_deadlines}"

    @property
    def keyprefix_binding_permanent(self) -> str:
        """Name of what kombu notes of bindings that do not expire."""
        return f"{self.keys.prefix}{kombu_redis.Channel.keyprefix_binding_permanent}"

    def _q_for_pri(self, queue: str, pri: int) -> str:
        """Return the name of a queue's list."""
        return f"{self.keys.prefix}{super()._q_for_pri(queue, pri)}"

    def _get_publish_topic(self, exchange: str, routing_key: str) -> str:
        """Return the name of an exchange's channel: of remote control, or of events."""
        return f"{self.keys.prefix}{super()._get_publish_topic(exchange, routing_key)}"
