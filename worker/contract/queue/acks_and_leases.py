"""Messages that a worker holds: leased to it, acknowledged by it, or put back for others.

A worker renews its leases. The visibility timeout is how long after a worker's last renewal its
messages go to others, however long a chunk takes. Times are the Redis server's, so the clocks of
the hosts need not agree, and may be changed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

import redis
from kombu.transport import redis as kombu_redis

from worker.contract.codec import encode
from worker.contract.keys import Keys
from worker.contract.queue.envelope import EnvelopeError, NewerMessageError, open_envelope
from worker.contract.queue.held import HeldMessages
from worker.contract.redis.errors import reason_of
from worker.contract.redis.key_types import explained

log = logging.getLogger(__name__)

# For so long messages wait for workers of a later version; then they are dead letters. Of the
# oldest, so many are looked at each time.
NEWER_WAIT_S: Final = 3600.0
_NEWER_AT_ONCE: Final = 256
# In a message's delivery info: its bytes, as they are on the processing list; absent if it is held.
RAW: Final = "raw"
# And whether it is held, with a lease, since it was taken.
HELD: Final = "held"

# KEYS: where a message is, where it is to go. ARGV: the message, and how it is put there.
_PUT_BACK: Final = """
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
redis.call(ARGV[2], KEYS[2], ARGV[1])
return 1
"""


class Leases(kombu_redis.QoS):
    """The messages that this process holds, and how others get those of a dead process."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Whether the worker can take in another message, beside kombu's own count of messages.
        self.has_capacity: Callable[[], bool] = lambda: True
        self._keys: Keys = self.channel.keys
        self._held = HeldMessages(self._keys)
        self._server_ahead_s: float | None = None
        self._processing_since_s: dict[bytes, float] = {}
        self._newer_since_s: dict[bytes, float] = {}
        self._late_acks: set[str] = set()
        # Acknowledged in Redis, and not yet forgotten here.
        self._acked: set[str] = set()

    def can_consume(self) -> bool:
        """Whether to ask for another message."""
        return self.has_capacity() and bool(super().can_consume())

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a message as unacknowledged, and take it off the processing list, if it is there."""
        info = message.delivery_info
        raw = info.pop(RAW, None)
        if not info.pop(HELD, False):
            held = encode([message._raw, info["exchange"], info["routing_key"]])  # noqa: SLF001 - kombu's
            with self.channel.conn_or_acquire() as client:
                self._held.note(client, delivery_tag, held, self._server_s(), raw)
        # The memory of it, without kombu's own noting in Redis.
        super(kombu_redis.QoS, self).append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message; if Redis refuses now, with the next renewal of leases.

        Kombu would go on holding the message, and its lease would be renewed for ever. A message of
        a connection that is closed by now goes to others when its lease ends: they find it done.
        """
        try:
            if delivery_tag in self._acked:
                self._acked.discard(delivery_tag)
            elif self._is_open:
                with self.channel.conn_or_acquire() as client, client.pipeline() as pipe:
                    self._remove_from_indices(delivery_tag, pipe).execute()
        except redis.RedisError as e:
            log.warning("message.ack_waits: %s", reason_of(e))
            self._late_acks.add(delivery_tag)
        super(kombu_redis.QoS, self).ack(delivery_tag)

    def note_acked(self, delivery_tag: str) -> None:
        """Note that a message was acknowledged with its result; `ack` follows. By any thread."""
        self._acked.add(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's
        """Put a message back or drop it; if Redis refuses now, its lease ends, and others get it.

        Celery takes an error here for one of the connection, and starts over with all it holds.
        """
        try:
            if self._is_open:
                super().reject(delivery_tag, requeue)
                return
        except redis.RedisError as e:
            log.warning("message.reject_waits: %s", reason_of(e))
        super(kombu_redis.QoS, self).ack(delivery_tag)

    @property
    def _is_open(self) -> bool:
        connection = self.channel.connection
        return connection is not None and connection.client is not None

    def restore_unacked(self, client: Any = None) -> None:
        """Put back what this process holds, as a channel does when it closes.

        One whose connection is gone cannot, and need not: the leases end.
        """
        if not self._is_open:
            self._delivered.clear()
            return
        super().restore_unacked(client)

    def renew(self) -> None:
        """Renew the leases on what is held. Only by the thread that consumes."""
        self._server_ahead_s = None
        held = self._delivered.keys() - self._dirty.copy()
        if not held and not self._late_acks:
            return
        with self.channel.conn_or_acquire() as client:
            if late := list(self._late_acks):
                with client.pipeline() as pipe:
                    pipe.zrem(self.unacked_index_key, *late)
                    pipe.hdel(self.unacked_key, *late)
                    pipe.execute()
                self._late_acks.difference_update(late)
            if held:
                self._held.renew(client, held, self._server_s())

    def restore_visible(self, start: int = 0, num: int | None = 10, interval: int = 10) -> None:  # noqa: ARG002 - kombu's
        """Put back what dead workers hold, and what was left on the processing list.

        If Redis refuses, the next call does it: the messages stay where they are.
        """
        with self.channel.conn_or_acquire() as client:
            for step in (self._put_back_processing, self._put_back_unacked, self._look_at_newer):
                try:
                    step(client)
                except redis.ResponseError as e:
                    log.warning("leases.restore_waits: %s", explained(e, client, self._keys))

    def restore_by_tag(
        self,
        tag: bytes | str,
        client: Any = None,
        leftmost: bool = False,  # noqa: FBT001, FBT002 - kombu's
    ) -> None:
        """Put back what is held, at the end of the queue that is next or, `leftmost`, at the other.

        What is held and is no message becomes a dead letter.
        """
        with self.channel.conn_or_acquire(client) as found:
            self._put_back(found, tag, push="LPUSH" if leftmost else "RPUSH")

    def _put_back_unacked(self, client: Any) -> None:
        """Put back what has been held for longer than a lease without a renewal.

        Each is moved in one step, so several workers may do this at a time.
        """
        now_s = self._server_s()
        for tag in self._held.late(client, now_s, self.visibility_timeout):
            self._put_back(client, tag, late_s=now_s - self.visibility_timeout)

    def _put_back(self, client: Any, tag: bytes | str, **how: Any) -> None:
        held = self._held.look(client, tag)
        if held is None:
            return
        try:
            self._held.put_back(client, tag, held, **how)
        except EnvelopeError as e:
            self.channel.dead_letter_held(tag, held, e)

    def _put_back_processing(self, client: Any) -> None:
        """Put back what has been seen on the processing list for longer than a lease."""
        now_s = time.monotonic()
        found = set(client.lrange(self._keys.processing, 0, -1))
        self._processing_since_s = {raw: self._processing_since_s.get(raw, now_s) for raw in found}
        for raw, since_s in self._processing_since_s.items():
            if now_s - since_s > self.visibility_timeout:
                client.eval(_PUT_BACK, 2, self._keys.processing, self._keys.queue, raw, "RPUSH")

    def let_go(self, tag: bytes, raw: bytes) -> None:
        """Move a message that is held, and cannot be processed here, to the processing list."""
        with self.channel.conn_or_acquire() as client:
            self._held.let_go(client, tag, raw)

    def leave_to_newer(self, raw: bytes) -> None:
        """Let a message on the processing list wait, beside the queue, for a later worker."""
        with self.channel.conn_or_acquire() as client:
            client.eval(_PUT_BACK, 2, self._keys.processing, self._keys.newer, raw, "LPUSH")

    def _look_at_newer(self, client: Any) -> None:
        """Put back what waited for this worker; make what has waited for too long dead letters."""
        now_s = time.monotonic()
        found = client.lrange(self._keys.newer, -_NEWER_AT_ONCE, -1)
        self._newer_since_s = {raw: self._newer_since_s.get(raw, now_s) for raw in found}
        for raw, since_s in self._newer_since_s.items():
            try:
                open_envelope(raw)
            except NewerMessageError as e:
                if now_s - since_s > NEWER_WAIT_S:
                    self.channel.dead_letter(raw, e, self._keys.newer)
                continue
            except EnvelopeError:
                pass  # Whoever takes it from the queue says so.
            client.eval(_PUT_BACK, 2, self._keys.newer, self._keys.queue, raw, "RPUSH")

    def _server_s(self) -> float:
        """Return the server's time; it is asked for at each renewal, not at each message."""
        if self._server_ahead_s is None:
            with self.channel.conn_or_acquire() as client:
                seconds, microseconds = client.time()
            self._server_ahead_s = seconds + microseconds / 1e6 - time.monotonic()
        return time.monotonic() + self._server_ahead_s
