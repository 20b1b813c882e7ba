"""Messages that a worker holds: leased to it, acknowledged by it, or put back for others.

A worker renews its leases: the visibility timeout is how long after a worker's last sign of life
its messages go to others, whatever a chunk takes. Times are the server's, so the clocks of the
hosts need not agree, and may be set.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import Any, Final

import redis
from kombu.transport import redis as kombu_redis
from kombu.utils.json import dumps

from worker.contract.messages import QUEUE
from worker.contract.redis.errors import reason_of

log = logging.getLogger(__name__)

# Where a message is from the moment it leaves the queue until it is noted as unacknowledged.
PROCESSING: Final = f"{QUEUE}.taken"

# KEYS: where it was taken to, the queue. ARGV: the message.
_PUT_BACK: Final = """
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
redis.call('RPUSH', KEYS[2], ARGV[1])
return 1
"""


class Leases(kombu_redis.QoS):
    """The messages that this process holds, and how others get those of a process that is gone."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ahead_s: float | None = None
        self._seen_taken: dict[bytes, float] = {}
        self._late_acks: set[str] = set()

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a message as held, and no longer as just taken."""
        info = message.delivery_info
        held = dumps([message._raw, info["exchange"], info["routing_key"]])  # noqa: SLF001 - kombu's
        with self.pipe_or_acquire() as pipe:
            pipe.zadd(self.unacked_index_key, {delivery_tag: self._server_s()})
            pipe.hset(self.unacked_key, delivery_tag, held)
            if (raw := self.channel.connection.taken) is not None:
                pipe.lrem(PROCESSING, 1, raw)
            pipe.execute()
        # The memory of it, without kombu's own noting in Redis.
        super(kombu_redis.QoS, self).append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message; where Redis cannot now, with the next renewal of leases.

        Kombu would go on holding the message, and its lease would be renewed for ever. What came by
        a connection that is closed by now goes to others when its lease ends: they find it done.
        """
        try:
            if self._is_open:
                with self.channel.conn_or_acquire() as client, client.pipeline() as pipe:
                    self._remove_from_indices(delivery_tag, pipe).execute()
        except redis.RedisError as e:
            log.warning("message.ack_waits: %s", reason_of(e))
            self._late_acks.add(delivery_tag)
        super(kombu_redis.QoS, self).ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's
        """Put a message back or drop it; where Redis cannot now, its lease ends, and others get it.

        Celery takes an error here for one of the connection, and begins anew with all it holds.
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
        """Put back what this process holds, as a channel does that closes.

        One whose connection is gone cannot, and need not: the leases end.
        """
        if not self._is_open:
            self._delivered.clear()
            return
        super().restore_unacked(client)

    def renew(self) -> None:
        """Give a sign of life. Only by the thread that consumes."""
        self._ahead_s = None
        held = self._delivered.keys() - self._dirty.copy()
        if not held and not self._late_acks:
            return
        with self.channel.conn_or_acquire() as client, client.pipeline() as pipe:
            if late := list(self._late_acks):
                pipe.zrem(self.unacked_index_key, *late)
                pipe.hdel(self.unacked_key, *late)
            if held:
                leased = dict.fromkeys(held, self._server_s())
                pipe.zadd(self.unacked_index_key, leased, xx=True)
            pipe.execute()
        self._late_acks.difference_update(late)

    def restore_visible(self, start: int = 0, num: int | None = 10, interval: int = 10) -> None:  # noqa: ARG002 - kombu's
        """Put back what dead workers hold, and what was taken and never noted.

        Where Redis refuses, the next look does: the messages are where they are.
        """
        try:
            with self.channel.conn_or_acquire() as client:
                self._put_back_processing(client)
                self._put_back_unacked(client)
        except redis.ResponseError as e:
            log.warning("leases.look_waits: %s", reason_of(e))

    def _put_back_unacked(self, client: Any) -> None:
        """Put back what has been held without a sign of life for longer than a lease."""
        with (
            suppress(kombu_redis.MutexHeld),
            kombu_redis.Mutex(client, self.unacked_mutex_key, self.unacked_mutex_expire),
        ):
            late_s = self._server_s() - self.visibility_timeout
            for tag in client.zrange(self.unacked_index_key, "-inf", late_s, byscore=True):
                self.restore_by_tag(tag, client)

    def _put_back_processing(self, client: Any) -> None:
        """Put back what has been seen as taken for longer than a lease."""
        now_s = time.monotonic()
        there = set(client.lrange(PROCESSING, 0, -1))
        self._seen_taken = {raw: self._seen_taken.get(raw, now_s) for raw in there}
        for raw, since_s in self._seen_taken.items():
            if now_s - since_s > self.visibility_timeout:
                client.eval(_PUT_BACK, 2, PROCESSING, QUEUE, raw)

    def _server_s(self) -> float:
        """Return the server's time, which is asked for at each renewal, not at each message."""
        if self._ahead_s is None:
            with self.channel.conn_or_acquire() as client:
                seconds, microseconds = client.time()
            self._ahead_s = seconds + microseconds / 1e6 - time.monotonic()
        return time.monotonic() + self._ahead_s
