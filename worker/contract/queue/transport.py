"""Kombu's Redis transport, made so that no message is lost and none waits long for a dead worker.

Kombu takes a message by BRPOP and notes it as unacknowledged afterwards: a worker that is killed in
between, or whose connection breaks, takes it to the grave. Here it moves in one step to a list of
what has been taken (BLMOVE), and leaves that when it is noted.

What a worker holds is leased to it: see `leases`.

Kombu also makes a new client of redis-py whenever it acknowledges, publishes or polls. A client is
only a handle on the pool of connections, and may be shared by threads; but in redis-py 8 making one
fills a table of some two hundred entries, and took a fifth of the worker's main thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty
from typing import Any, Final

import redis
from kombu.transport import redis as kombu_redis
from kombu.utils.json import dumps

from worker.contract.messages import QUEUE, URGENT, URGENT_KEY
from worker.contract.queue.envelope import EnvelopeError, opened
from worker.contract.queue.leases import PROCESSING, Leases
from worker.contract.stores.dead_letters import DeadLetters

log = logging.getLogger(__name__)

_LATE: Final = "a reply has not come in time"

# As kombu writes it into a message, whose body is base64: no other part can look so.
_URGENT_MARK: Final = f'"priority": {URGENT}'

# KEYS: the queue, where to take it to. ARGV: by what an urgent message is known.
_TAKE_URGENT: Final = """
local next = redis.call('LINDEX', KEYS[1], -1)
if not next or not string.find(next, ARGV[1], 1, true) then return false end
return redis.call('LMOVE', KEYS[1], KEYS[2], 'RIGHT', 'LEFT')
"""


class Channel(kombu_redis.Channel):
    """Takes messages of our queue without a moment at which they are nowhere."""

    QoS = Leases

    _kept: Any = None
    _moves = False
    # Whether a reply has not come in time: then other connections may have vanished, too, and each
    # would be found out by a time-out of its own.
    _is_late = False

    def _create_client(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's
        if asynchronous:
            # These hold a connection of their own, and kombu keeps them itself.
            return super()._create_client(asynchronous=True)
        # After a broken connection or a fork the pool is another one.
        if self._kept is None or self._kept.connection_pool is not self.pool:
            self._kept = super()._create_client()
        return self._kept

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """Yield a client, as kombu's own; note a reply that does not come."""
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
            client.rpush(queue, dumps(message))

    def is_urgency_possible(self) -> bool:
        """Whether there is somebody who sends urgent messages.

        Raises:
            redis.TimeoutError: Redis does not answer, or did not answer somebody else in time:
                all connections should be made anew.
        """
        if self._is_late:
            raise redis.TimeoutError(_LATE)
        with self.conn_or_acquire() as client:
            return bool(client.exists(URGENT_KEY))

    def take_urgent(self) -> bool:
        """Take the next message if it is urgent, whatever is held; return whether it was."""
        with self.conn_or_acquire() as client:
            raw = client.eval(_TAKE_URGENT, 2, QUEUE, PROCESSING, _URGENT_MARK)
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
        patience_s = timeout or self.brpop_timeout or 0
        self.client.connection.send_command(
            "BLMOVE", QUEUE, PROCESSING, "RIGHT", "LEFT", patience_s
        )

    def _brpop_read(self, **options: Any) -> bool:
        # As was asked: meanwhile the queue may have been cancelled.
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
        try:
            message = opened(raw)
        except EnvelopeError as e:
            self._dead_letter(raw, str(e))
            return
        self.connection.taken = raw
        try:
            self.connection._deliver(message, QUEUE)  # noqa: SLF001 - as kombu does
        finally:
            self.connection.taken = None

    def _dead_letter(self, raw: bytes, reason: str) -> None:
        log.error("message.unreadable: %d bytes, %s", len(raw), reason)
        with self.conn_or_acquire() as client:
            DeadLetters(client).add_unreadable(raw, reason)
            client.lrem(PROCESSING, 1, raw)


class Transport(kombu_redis.Transport):
    """Kombu's own with these channels. `taken` is the message that is being handed over."""

    Channel = Channel
    taken: bytes | None = None
