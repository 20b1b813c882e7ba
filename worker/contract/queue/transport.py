"""Kombu's Redis transport, changed so that no message is lost and none waits for a dead worker.

::

    queue --BLMOVE--> processing --append--> unacknowledged (leased) --ack--> gone
      ^                   |                       |
      +---- put back when a worker dies ----------+       see `leases`

Kombu takes a message by BRPOP and notes it as unacknowledged afterwards: a worker that is killed in
between, or whose connection breaks, loses it. Here it moves in one step to the processing list, and
leaves that when it is noted.

A test names each private part of kombu that this package overrides or uses: test_private_names.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty
from typing import Any, Final

import redis
from kombu.utils.json import dumps

from worker.contract.messages import QUEUE, URGENT, URGENT_KEY
from worker.contract.queue.acks_and_leases import PROCESSING, RAW, Leases
from worker.contract.queue.connecting import ConnectingChannel, ConnectingTransport
from worker.contract.queue.envelope import EnvelopeError, open_envelope
from worker.contract.stores.dead_letters import DeadLetters

log = logging.getLogger(__name__)

_LATE: Final = "a reply has not come in time"
_MOVED: Final = "another server is the master now"

# What an urgent message begins with, as kombu writes JSON: nothing has to be parsed to know it.
_URGENT_HEADER: Final = {"urgent": True}
_URGENT_PREFIX: Final = dumps(_URGENT_HEADER).removesuffix("}")

# KEYS: the queue, the processing list. ARGV: what an urgent message begins with.
_TAKE_URGENT: Final = """
local next = redis.call('LINDEX', KEYS[1], -1)
if not next or string.sub(next, 1, #ARGV[1]) ~= ARGV[1] then return false end
return redis.call('LMOVE', KEYS[1], KEYS[2], 'RIGHT', 'LEFT')
"""


class Channel(ConnectingChannel):
    """Takes messages from our queue so that each is in one place at any moment.

    `on_unreadable` is called with the id of a message that cannot be processed, if it has one, and
    the reason; the message is a dead letter by then.
    """

    QoS = Leases

    on_unreadable: Callable[[str, str], None] | None = None
    _shared_client: Any = None
    _moves = False
    # Whether a reply has not come in time: then other connections may have vanished, too, and each
    # would be found out by a time-out of its own.
    _is_late = False

    def _create_client(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's
        """Return one client for all that is not waited for.

        Kombu makes a new one whenever it acknowledges, publishes or polls. A client is only a
        handle on the pool of connections and may be shared by threads; but in redis-py 8 making one
        fills a table of some two hundred entries, which took a fifth of the worker's main thread.
        """
        if asynchronous:
            # These hold a connection of their own, and kombu keeps them itself.
            return super()._create_client(asynchronous=True)
        # After a broken connection or a fork the pool is another one.
        if self._shared_client is None or self._shared_client.connection_pool is not self.pool:
            self._shared_client = super()._create_client()
        return self._shared_client

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """Yield a client, as kombu does; note a reply that does not come in time."""
        try:
            with super().conn_or_acquire(client) as found:
                yield found
        except redis.TimeoutError:
            self._is_late = True
            raise

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        """Put a message at the end of the queue; an urgent one at its head."""
        if message["properties"].get("priority") != URGENT:
            super()._put(queue, message, **kwargs)
            return
        with self.conn_or_acquire() as client:
            client.rpush(queue, dumps(_URGENT_HEADER | message))

    def is_urgency_possible(self) -> bool:
        """Whether somebody sends urgent messages.

        Raises:
            redis.TimeoutError: Redis does not answer, or did not answer somebody else in time, or
                another server is the master now: all connections should be made anew.
        """
        if self._is_late:
            raise redis.TimeoutError(_LATE)
        with self.conn_or_acquire() as client:
            is_possible = bool(client.exists(URGENT_KEY))
        if self.has_moved():
            raise redis.TimeoutError(_MOVED)
        return is_possible

    def take_urgent(self) -> bool:
        """Take the next message if it is urgent, whatever is held; return whether it was."""
        with self.conn_or_acquire() as client:
            raw = client.eval(_TAKE_URGENT, 2, QUEUE, PROCESSING, _URGENT_PREFIX)
        if raw is None:
            return False
        self._hand_over(raw)
        return True

    def _brpop_start(self, timeout: float | None = None) -> None:
        self._moves = set(self.active_queues) == {QUEUE}
        if not self._moves:
            super()._brpop_start(timeout)
            return
        self._in_poll = self.client.connection
        self._brpop_sent_at = time.monotonic()
        timeout_s = timeout or self.brpop_timeout or 0
        self.client.connection.send_command("BLMOVE", QUEUE, PROCESSING, "RIGHT", "LEFT", timeout_s)

    def _brpop_read(self, **options: Any) -> bool:
        # The command that was sent: meanwhile the queue may have been cancelled.
        if not self._moves:
            return bool(super()._brpop_read(**options))
        try:
            try:
                raw = self.client.parse_response(self.client.connection, "BLMOVE", **options)
            except self.connection_errors:
                # The next turn of the loop connects anew.
                self.client.connection.disconnect()
                raise
            if raw is None:
                raise Empty
            self._hand_over(raw)
            return True
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()

    def _hand_over(self, raw: bytes) -> None:
        """Give a message on the processing list to its consumer, or make it a dead letter."""
        try:
            message = open_envelope(raw)
        except EnvelopeError as e:
            self._dead_letter(raw, str(e))
            if e.task_id is not None and self.on_unreadable is not None:
                self.on_unreadable(e.task_id, str(e))
            return
        # `Leases.append` takes it out again: by it the message is found on the processing list.
        message["properties"]["delivery_info"][RAW] = raw
        self.connection._deliver(message, QUEUE)  # noqa: SLF001 - as kombu does

    def _dead_letter(self, raw: bytes, reason: str) -> None:
        log.error("message.unreadable: %d bytes, %s", len(raw), reason)
        with self.conn_or_acquire() as client:
            DeadLetters(client).add_unreadable(raw, reason)
            client.lrem(PROCESSING, 1, raw)


class Transport(ConnectingTransport):
    """Kombu's own with these channels."""

    Channel = Channel
