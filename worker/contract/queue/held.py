"""Messages that workers hold, in Redis: a hash by delivery tag, and beside it when each was leased.

Each step is one script, which stops at the first command that Redis refuses: a message is in one
place at any moment, whatever lies under the other names. Those that take no memory in the end begin
with a ZREM of nothing: a full Redis refuses a script by its first write alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

from worker.contract.codec import decode, encode
from worker.contract.keys import Keys
from worker.contract.queue.envelope import (
    MAX_MESSAGE_BYTES,
    EnvelopeError,
    NewerMessageError,
    open_envelope,
)

# So many leases that have ended are looked at in one sweep.
_AT_ONCE: Final = 1000

# KEYS: held, leases, processing. ARGV: tag, the message as it is held, now, and the message as it
# is on the processing list, if it comes from there.
_NOTE: Final = """
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
if ARGV[4] then redis.call('LREM', KEYS[3], 1, ARGV[4]) end
"""

# KEYS: held, leases, processing. ARGV: tag, the message. Nothing happens to one that is not held.
_LET_GO: Final = """
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('HDEL', KEYS[1], ARGV[1]) == 1 then redis.call('LPUSH', KEYS[3], ARGV[2]) end
"""

# What is not held any more gets no lease: others have it, or it is done.
# KEYS: held, leases. ARGV: now, and tags.
_RENEW: Final = """
redis.call('ZREM', KEYS[2], '')
for n = 2, #ARGV do
  if redis.call('HEXISTS', KEYS[1], ARGV[n]) == 1 then
    redis.call('ZADD', KEYS[2], ARGV[1], ARGV[n])
  end
end
"""

# What is held without a lease, or with one that begins later than any can, gets one from now on.
# All that is held is gone through only if there are not as many leases: every worker sweeps, and a
# thousand of them may hold ten thousand messages. A lease of nothing hides one that lacks until it
# has ended and is taken away.
# KEYS: held, leases. ARGV: now, the latest time of a lease, that of one that has ended, how many of
# those to return.
_SWEEP: Final = """
redis.call('ZREM', KEYS[2], '')
if redis.call('HLEN', KEYS[1]) ~= redis.call('ZCARD', KEYS[2]) then
  for _, tag in ipairs(redis.call('HKEYS', KEYS[1])) do
    if not redis.call('ZSCORE', KEYS[2], tag) then redis.call('ZADD', KEYS[2], ARGV[1], tag) end
  end
end
for _, tag in ipairs(redis.call('ZRANGE', KEYS[2], ARGV[2], '+inf', 'BYSCORE')) do
  redis.call('ZADD', KEYS[2], ARGV[1], tag)
end
return redis.call('ZRANGE', KEYS[2], '-inf', ARGV[3], 'BYSCORE', 'LIMIT', 0, ARGV[4])
"""

# KEYS: held, leases. ARGV: tag. Returns the message; without one, its lease is taken away.
_LOOK: Final = """
local found = redis.call('HGET', KEYS[1], ARGV[1])
if not found then redis.call('ZREM', KEYS[2], ARGV[1]) end
return found
"""

# KEYS: held, leases, queue. ARGV: tag, the message as it is held and as it is put into the queue,
# at which end, and by when its lease must have begun. That the queue is a list is asked first: what
# is refused later is not taken back.
_PUT_BACK: Final = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
local leased = redis.call('ZSCORE', KEYS[2], ARGV[1])
if leased and tonumber(leased) > tonumber(ARGV[5]) then return 0 end
redis.call('LLEN', KEYS[3])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call(ARGV[4], KEYS[3], ARGV[3])
return 1
"""


class HeldMessages:
    """The messages that the workers of an installation hold. Nothing is kept here between calls.

    Every call raises `redis.RedisError` where Redis is away or refuses.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._both = (keys.unacked, keys.unacked_index)

    def note(self, client: Any, tag: str, held: bytes, now_s: float, raw: bytes | None) -> None:
        """Note a message as held, and take it, by its bytes, off the processing list."""
        there = () if raw is None else (raw,)
        client.eval(_NOTE, 3, *self._both, self._keys.processing, tag, held, now_s, *there)

    def let_go(self, client: Any, tag: bytes, raw: bytes) -> None:
        """Move a message that was taken, and cannot be processed, to the processing list."""
        client.eval(_LET_GO, 3, *self._both, self._keys.processing, tag, raw)

    def renew(self, client: Any, tags: Iterable[str], now_s: float) -> None:
        """Let the leases on what is still held begin now."""
        client.eval(_RENEW, 2, *self._both, now_s, *tags)

    def late(self, client: Any, now_s: float, lease_s: float) -> list[bytes]:
        """Return the tags of some whose leases have ended, after a lease was given to all."""
        times_s = (now_s, now_s + lease_s, now_s - lease_s)
        found: list[bytes] = client.eval(_SWEEP, 2, *self._both, *times_s, _AT_ONCE)
        return found

    def look(self, client: Any, tag: bytes | str) -> bytes | None:
        """Return a message as it is held, or None if it is not."""
        held: bytes | None = client.eval(_LOOK, 2, *self._both, tag)
        return held

    def put_back(
        self,
        client: Any,
        tag: bytes | str,
        held: bytes,
        *,
        push: str = "RPUSH",
        late_s: float | str = "inf",
    ) -> bool:
        """Put a message back into the queue if it is held as it was seen; return whether it was.

        With `late_s`, only if nobody has renewed its lease since then.

        Raises:
            EnvelopeError: it is no message; it stays where it is.
        """
        message = _delivered(held)
        keys = (*self._both, self._keys.queue)
        return bool(client.eval(_PUT_BACK, 3, *keys, tag, held, message, push, late_s))


def message_in(held: bytes) -> Any:
    """Return the message in what is noted of one that is held.

    Raises:
        EnvelopeError: none is in there.
    """
    if len(held) > 2 * MAX_MESSAGE_BYTES:
        msg = f"what is held is larger than any message: {len(held)} bytes"
        raise EnvelopeError(msg)
    try:
        message, _exchange, _routing_key = decode(held)
    except (ValueError, TypeError) as e:
        msg = "what is held is not what a worker notes of a message"
        raise EnvelopeError(msg) from e
    return message


def _delivered(held: bytes) -> bytes:
    """Return a message that is held as it is put back: marked as delivered before."""
    message = message_in(held)
    # Later workers can read what is newer.
    with suppress(NewerMessageError):
        open_envelope(encode(message))
    for place in ("headers", "properties.delivery_info"):
        _mark(message, place.split("."))
    return encode(message)


def _mark(message: Any, place: list[str]) -> None:
    for name in place:
        message = message.get(name) if isinstance(message, dict) else None
    if isinstance(message, dict):
        message["redelivered"] = True
