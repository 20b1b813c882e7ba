"""What was given up: images that killed workers, and messages that nobody could read.

Each has its failed record where there is a job to record it in. Here it lies for a person to look
at, and to send again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from worker.contract.codec import decode, encode
from worker.contract.messages import KEY_PREFIX, Chunk

if TYPE_CHECKING:
    import redis

MAX_LETTERS: Final = 10_000
# So much of a message that cannot be read is kept.
MAX_RAW_BYTES: Final = 4096
_DEAD: Final = f"{KEY_PREFIX}dead"

# KEYS: the letters. ARGV: field, letter, most letters. One more than that pushes none out.
_ADD: Final = """
if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
"""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was given up, when, and why.

    `chunk` is what to send again: it holds the one image that was given up, or all of a chunk that
    was given up as a whole. Without it there is only what could be seen of the message, in `raw`.
    """

    id: str
    code: str
    reason: str
    at_s: float
    chunk: Chunk | None = None
    raw: str = ""


class DeadLetters:
    """The list, in Redis. To add what is there already changes nothing."""

    def __init__(self, client: redis.Redis, clock: Callable[[], float] = time.time) -> None:
        self._client: Any = client
        self._clock = clock

    def add_chunk(self, chunk: Chunk, code: str, reason: str) -> None:
        """Add all of a chunk."""
        self._add(chunk.task_id, code, reason, chunk=chunk)

    def add_image(self, chunk: Chunk, index: int, code: str, reason: str) -> None:
        """Add one image of a chunk."""
        alone = msgspec.structs.replace(chunk, images=(chunk.images[index],))
        self._add(f"{chunk.task_id}:{index}", code, reason, chunk=alone)

    def add_unreadable(self, raw: bytes, reason: str) -> None:
        """Add a message of which nothing but its bytes is known."""
        shown = raw[:MAX_RAW_BYTES].decode("utf-8", "replace")
        name = f"message:{hashlib.sha256(raw).hexdigest()[:12]}"
        self._add(name, "unreadable_message", reason, raw=shown)

    def list(self) -> list[DeadLetter]:
        """Return all, the oldest first."""
        found = self._client.hgetall(_DEAD).items()
        letters = [_letter(name.decode("utf-8", "replace"), body) for name, body in found]
        return sorted(letters, key=lambda letter: (letter.at_s, letter.id))

    def count(self) -> int:
        """Return how many there are."""
        return int(self._client.hlen(_DEAD))

    def remove(self, letters: Iterable[DeadLetter]) -> None:
        """Take these off the list."""
        ids = [letter.id for letter in letters]
        if ids:
            self._client.hdel(_DEAD, *ids)

    def _add(self, name: str, code: str, reason: str, **more: Any) -> None:
        letter = DeadLetter(id=name, code=code, reason=reason, at_s=self._clock(), **more)
        self._client.eval(_ADD, 1, _DEAD, name, encode(letter), MAX_LETTERS)


def _letter(name: str, body: bytes) -> DeadLetter:
    try:
        return msgspec.convert(decode(body), DeadLetter)
    except (ValueError, msgspec.ValidationError) as e:
        # Of another version, or not ours: still something that a person should see.
        shown = body[:MAX_RAW_BYTES].decode("utf-8", "replace")
        return DeadLetter(id=name, code="unreadable_letter", reason=str(e), at_s=0.0, raw=shown)
