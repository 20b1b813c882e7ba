"""Kombu's Redis transport, changed so that no message is lost and none waits for a dead worker.

::

    queue --take---------------------------> unacknowledged (leased) --ack--> gone
      ^ +--BLMOVE--> processing --append---->      |
      |                  |                         |
      +--- put back when a worker dies ------------+        see `acks_and_leases`

Kombu takes a message by BRPOP and notes it as unacknowledged afterwards: a worker that is killed in
between, or whose connection breaks, loses it. Here it is taken and leased in one step. Which one,
of which job, is said in `fair`. Where none waits, a BLMOVE waits for the next, which moves to the
processing list, and leaves that when it is noted.

A test names each private part of kombu that this package overrides or uses: test_private_names.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from queue import Empty
from typing import Any, Final

import redis
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps

from worker.contract.messages import QUEUE, URGENT
from worker.contract.queue.acks_and_leases import HELD, RAW, Leases
from worker.contract.queue.connecting import ConnectingTransport
from worker.contract.queue.dead_letter_channel import DeadLetterChannel
from worker.contract.queue.envelope import (
    MAX_MESSAGE_BYTES,
    EnvelopeError,
    NewerMessageError,
    open_control,
    open_envelope,
)
from worker.contract.queue.fair import FairQueue, Taken, taken

log = logging.getLogger(__name__)

# Remote control: a command is a few hundred bytes, a text to be encoded some kilobytes.
MAX_CONTROL_BYTES: Final = 2**20
_REPLIES: Final = ".pidbox"
_TAKES: Final = frozenset({"EVAL", "EVALSHA"})
_LATE: Final = "a reply has not come in time"
_MOVED: Final = "another server is the master now"


class Channel(DeadLetterChannel):
    """Takes messages from our queue so that each is in one place at any moment."""

    QoS = Leases

    _has_seen_newer = False
    _shared_client: Any = None
    _moves = False
    _sent = ""
    # Whether a reply has not come in time: then other connections may have vanished, too, and each
    # would be found out by a time-out of its own.
    _is_late = False

    @cached_property
    def _fair(self) -> FairQueue:
        return FairQueue(self.keys)

    @cached_property
    def _packed(self) -> dict[tuple[Any, ...], list[bytes]]:
        """The commands that were sent to wait for messages, as they are sent."""
        return {}

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
            client.rpush(self.keys.queue, dumps(message))

    def is_urgency_possible(self) -> bool:
        """Whether somebody sends urgent messages.

        Raises:
            redis.TimeoutError: Redis does not answer, or did not answer somebody else in time, or
                another server is the master now: all connections should be made anew.
        """
        if self._is_late:
            raise redis.TimeoutError(_LATE)
        with self.conn_or_acquire() as client:
            is_possible = bool(client.exists(self.keys.urgent))
        if self.has_moved():
            raise redis.TimeoutError(_MOVED)
        return is_possible

    def take_urgent(self) -> bool:
        """Take the next message if it is urgent, whatever is held; return whether it was."""
        with self.conn_or_acquire() as client:
            found = self._fair.take(client, "urgent")
        if found is None:
            return False
        self._hand_over(found)
        return True

    def _size(self, queue: str) -> int:
        """Return how many messages wait, of all jobs."""
        if queue != QUEUE:
            return int(super()._size(queue))
        with self.conn_or_acquire() as client:
            return self._fair.size(client)

    def _purge(self, queue: str) -> int:
        """Delete the messages that wait; return how many."""
        if queue != QUEUE:
            return int(super()._purge(queue))
        with self.conn_or_acquire() as client:
            return self._fair.purge(client)

    def _brpop_start(self, timeout: float | None = None) -> None:
        # Whatever else is to be consumed from beside it: only from there messages are taken safely.
        self._moves = QUEUE in self.active_queues
        if not self._moves:
            super()._brpop_start(timeout)
            return
        self._in_poll = self.client.connection
        self._send(*self._fair.take_command())

    def _wait_for_next(self) -> None:
        """Wait for a message; none is in any list. What comes first is taken first."""
        command = ("BLMOVE", self.keys.queue, self.keys.processing, "RIGHT", "LEFT")
        self._send(*command, self.brpop_timeout)

    @property
    def _may_wait(self) -> bool:
        return not self._closing and self.qos.can_consume()

    def _send(self, *command: Any) -> None:
        self._sent = command[0]
        self._brpop_sent_at = time.monotonic()
        connection = self.client.connection
        # They are the same few, over and over.
        if (packed := self._packed.get(command)) is None:
            packed = self._packed[command] = connection.pack_command(*command)
        connection.send_packed_command(packed)

    def _brpop_read(self, **options: Any) -> bool:
        # The command that was sent: meanwhile the queue may have been cancelled.
        command = self._sent if self._moves else "BRPOP"
        is_waiting_next = False
        try:
            try:
                found = self.client.parse_response(self.client.connection, command, **options)
                if found is None and command in _TAKES and self._may_wait:
                    is_waiting_next = True
                    self._wait_for_next()
            except redis.exceptions.NoScriptError:
                found, is_waiting_next = None, True
                self._send(*self._fair.take_command(whole=True))
            except self.connection_errors:
                # The next turn of the loop connects anew.
                is_waiting_next = False
                self.client.connection.disconnect()
                raise
            if found is None:
                raise Empty
            if self._moves:
                self._hand_over(taken(found))
            else:
                self._hand_over_reply(*found)
            return True
        finally:
            if not is_waiting_next:
                self._in_poll = None
                self._flush_brpop_reauth()

    def _hand_over(self, found: Taken) -> None:
        """Give a message that was taken to its consumer, or put it where it may wait."""
        raw, tag = found if isinstance(found, tuple) else (found, None)
        try:
            message = open_envelope(raw)
        except EnvelopeError as e:
            if tag is not None:
                self.qos.let_go(tag, raw)
            self._set_aside(raw, e)
            return
        info = message["properties"]["delivery_info"]
        # Where it is put back to, whatever its sender calls that.
        info["exchange"], info["routing_key"] = "", QUEUE
        # `Leases.append` takes it out again: by it the message is found on the processing list.
        info |= {RAW: raw} if tag is None else {HELD: True}
        self.connection._deliver(message, QUEUE)  # noqa: SLF001 - as kombu does

    def _set_aside(self, raw: bytes, error: EnvelopeError) -> None:
        """Put a message on the processing list where it may wait for others, or for a person."""
        if not isinstance(error, NewerMessageError):
            self.dead_letter(raw, error, self.keys.processing)
            return
        if not self._has_seen_newer:
            log.warning("message.newer: %s: it waits for later workers", error)
        self._has_seen_newer = True
        self.qos.leave_to_newer(raw)

    def _hand_over_reply(self, key: bytes, raw: bytes) -> None:
        """Give a message of another queue to its consumer: the reply of a worker."""
        queue = key.decode().removeprefix(self.keys.prefix)
        self._queue_cycle.rotate(queue)
        is_reply = queue.endswith(_REPLIES)
        try:
            message = open_control(raw, MAX_MESSAGE_BYTES) if is_reply else open_envelope(raw)
        except EnvelopeError as e:
            log.warning("message.dropped: %d bytes in %s, %s", len(raw), queue[:80], e)
            return
        self.connection._deliver(message, queue)  # noqa: SLF001 - as kombu does

    def _receive_one(self, c: Any) -> bool | None:
        """Give a command or an event to its consumer; drop what is too large, or neither of them.

        Kombu parses all of it first, and inflates it. What it cannot read ends the connection.
        """
        try:
            response = c.parse_response()
        except self.connection_errors:
            self._in_listen = None
            raise
        if not isinstance(response, list | tuple):
            return None
        found = self._handle_message(c, response)
        if not bytes_to_str(found["type"]).endswith("message"):
            return None
        _, _, topic = bytes_to_str(found["channel"]).removeprefix(self.keys.prefix).partition(".")
        exchange = topic.partition("/")[0]
        try:
            message = open_control(found["data"], MAX_CONTROL_BYTES)
        except EnvelopeError as e:
            log.warning("control.dropped: %d bytes, %s", len(found["data"]), e)
            return None
        if exchange not in self._fanout_to_queue:
            return None
        return bool(self._deliver_fanout_message(message, exchange))


class Transport(ConnectingTransport):
    """Kombu's own with these channels."""

    Channel = Channel
