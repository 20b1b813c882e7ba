"""Messages of versions before the prefix -> our queue, marked: see `worker.contract.legacy`.

The database may be other applications', too: only messages for our task are taken, by their whole
envelope, and everything else in lists and hashes of the same names is left as it is.
"""

from __future__ import annotations

import json
import time
from typing import Any, Final

from worker.contract import legacy
from worker.contract.codec import decode
from worker.contract.keys import Keys
from worker.contract.messages import URGENT
from worker.contract.queue.envelope import EnvelopeError, open_envelope
from worker.contract.queue.fair import FairQueue
from worker.contract.settings import Settings

# How many messages are looked at, and taken, at a time.
MOST: Final = 128
# After a look that found none of ours, so many are left out.
_PAUSE_LOOKS: Final = 30
# A queue that is longer has enough to do: what waits in the old one may be for old workers.
_ENOUGH: Final = 64

# KEYS: the old list, the queue. ARGV: the message as it is there, the same marked, and at which end
# of the queue it is put.
_MOVE: Final = """
if redis.call('LREM', KEYS[1], -1, ARGV[1]) == 0 then return 0 end
redis.call(ARGV[3], KEYS[2], ARGV[2])
return 1
"""
# KEYS: the old hash and index of what is held, the queue. ARGV: delivery tag, the latest time of a
# lease that has ended, the message marked.
_MOVE_HELD: Final = """
local leased = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not leased or tonumber(leased) > tonumber(ARGV[2]) then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('RPUSH', KEYS[3], ARGV[3])
return 1
"""


class LegacyQueue:
    """Takes what versions before the prefix have left; `lease_s` is how long a worker holds it."""

    def __init__(self, keys: Keys, lease_s: float) -> None:
        self._keys = keys
        self._fair = FairQueue(keys)
        self._lease_s = lease_s
        self._processing_since_s: dict[bytes, float] = {}
        self._offset = 0
        self._looks_left_out = 0

    def take_waiting(self, client: Any) -> int:
        """Take messages that wait, unless the queue is long enough; return how many."""
        if self._looks_left_out:
            self._looks_left_out -= 1
            return 0
        if not _is(client, legacy.QUEUE, b"list") or self._fair.size(client) >= _ENOUGH:
            return 0
        # The oldest are at the end.
        found = client.lrange(legacy.QUEUE, -MOST, -1)[::-1]
        moved = sum(self._move(client, legacy.QUEUE, raw) for raw in found)
        self._looks_left_out = 0 if moved else _PAUSE_LOOKS
        return moved

    def take_lost(self, client: Any) -> int:
        """Take what old workers held that are gone; return how many messages."""
        return self._take_processing(client) + self._take_held(client)

    def _take_processing(self, client: Any) -> int:
        """Take what has been on the old processing list for longer than a lease."""
        if not _is(client, legacy.PROCESSING, b"list"):
            return 0
        now_s, before = time.monotonic(), self._processing_since_s
        found = client.lrange(legacy.PROCESSING, -MOST, -1)
        self._processing_since_s = {raw: before.get(raw, now_s) for raw in found}
        late = [raw for raw, since in self._processing_since_s.items() if self._is_late(since)]
        return sum(self._move(client, legacy.PROCESSING, raw) for raw in late)

    def _is_late(self, since_s: float) -> bool:
        return time.monotonic() - since_s > self._lease_s

    def _take_held(self, client: Any) -> int:
        """Take what old workers hold without having renewed its lease.

        Other applications have theirs in the same place: some are looked at each time.
        """
        both = ((legacy.UNACKED, b"hash"), (legacy.UNACKED_INDEX, b"zset"))
        if not all(_is(client, key, kind) for key, kind in both):
            return 0
        seconds, _ = client.time()
        late_s = seconds - self._lease_s
        tags = client.zrange(
            legacy.UNACKED_INDEX, "-inf", late_s, byscore=True, offset=self._offset, num=MOST
        )
        moved = 0
        for tag, held in zip(tags, client.hmget(legacy.UNACKED, tags) if tags else (), strict=True):
            if (message := _held(held)) is not None:
                keys = (legacy.UNACKED, legacy.UNACKED_INDEX, self._keys.queue)
                moved += client.eval(
                    _MOVE_HELD, 3, *keys, tag, late_s, _marked(message, again=True)
                )
        self._offset = self._offset + len(tags) - moved if len(tags) == MOST else 0
        return moved

    def _move(self, client: Any, source: str, raw: bytes) -> int:
        try:
            message = open_envelope(raw)
        except EnvelopeError:
            return 0
        is_again = source != legacy.QUEUE
        is_urgent = message["properties"].get("priority") == URGENT
        end = "RPUSH" if is_urgent or is_again else "LPUSH"
        marked = _marked(message, again=is_again)
        return int(client.eval(_MOVE, 2, source, self._keys.queue, raw, marked, end))


def _is(client: Any, key: str, kind: bytes) -> bool:
    return bool(client.type(key) == kind)


def _held(body: bytes | None) -> dict[str, Any] | None:
    """Return the message of ours in what kombu notes of one that is held, or None."""
    try:
        message, _exchange, _routing_key = decode(body or b"")
        return open_envelope(json.dumps(message).encode())
    except (ValueError, TypeError, EnvelopeError):
        return None


def _marked(message: dict[str, Any], *, again: bool) -> str:
    """Return a message as it is put into our queue; `again` if it was delivered before."""
    message["headers"][legacy.MARK] = True
    if again:
        message["headers"]["redelivered"] = True
        message["properties"]["delivery_info"]["redelivered"] = True
    return json.dumps(message)


def legacy_queue(settings: Settings) -> LegacyQueue | None:
    """Return what serves the old names, if a worker with these settings does."""
    if not legacy.is_served(settings.keys):
        return None
    return LegacyQueue(settings.keys, settings.visibility_timeout_s)
