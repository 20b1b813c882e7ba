"""Dead letters: images that killed workers, and messages that workers cannot process.

Each image has its failed record where there is a job to record it in. The list is for a person, who
can look at a letter and send it again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from worker.contract.codec import decode, encode
from worker.contract.keys import DEFAULT_KEYS, Keys
from worker.contract.messages import Chunk, MessageError

if TYPE_CHECKING:
    import redis

MAX_LETTERS: Final = 10_000
# How much of an unreadable message is kept.
MAX_RAW_BYTES: Final = 4096
MAX_REASON_CHARS: Final = 1024
# Codes of letters; those of images are in `worker.errors`.
UNREADABLE: Final = "unreadable_message"
UNREADABLE_LETTER: Final = "unreadable_letter"
FOREIGN_ID: Final = "foreign_id"

# KEYS: the letters. ARGV: field, letter, most letters. A full list takes no more.
_ADD: Final = """
if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
"""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """An image, a chunk or a message that is not tried again, when, and why.

    `chunk` is what to send again: the one image, or all images of the chunk. Without it the message
    could not be read, and `raw` is its beginning.
    """

    id: str
    code: str
    reason: str
    at_s: float
    chunk: Chunk | None = None
    raw: str = ""


class DeadLetters:
    """The list, in Redis. Adding a letter a second time changes nothing."""

    def __init__(
        self,
        client: redis.Redis,
        keys: Keys = DEFAULT_KEYS,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client: Any = client
        self._keys = keys
        self._clock = clock

    def add_chunk(self, chunk: Chunk, code: str, reason: str) -> None:
        """Add all of a chunk."""
        self._add(chunk.task_id, code, reason, chunk=chunk)

    def add_image(self, chunk: Chunk, index: int, code: str, reason: str) -> None:
        """Add one image of a chunk."""
        alone = msgspec.structs.replace(chunk, images=(chunk.images[index],))
        self._add(f"{chunk.task_id}:{index}", code, reason, chunk=alone)

    def add_foreign(self, chunk: Chunk, task_id: str, reason: str) -> None:
        """Add all of a chunk that came under a task id which is not its own."""
        self._add(_message_id(f"{task_id} {chunk.task_id}"), FOREIGN_ID, reason, chunk=chunk)

    def add_unreadable(self, raw: bytes, reason: str) -> None:
        """Add a message of which nothing but its bytes is known."""
        shown = raw[:MAX_RAW_BYTES].decode("utf-8", "replace")
        self._add(_message_id(raw), UNREADABLE, reason, raw=shown)

    def list(self) -> list[DeadLetter]:
        """Return all, the oldest first."""
        found = self._client.hgetall(self._keys.dead).items()
        letters = [self._letter(name.decode("utf-8", "replace"), body) for name, body in found]
        return sorted(letters, key=lambda letter: (letter.at_s, letter.id))

    def count(self) -> int:
        """Return how many there are."""
        return int(self._client.hlen(self._keys.dead))

    def remove(self, letters: Iterable[DeadLetter]) -> None:
        """Take these off the list."""
        ids = [letter.id for letter in letters]
        if ids:
            self._client.hdel(self._keys.dead, *ids)

    def _add(self, name: str, code: str, reason: str, **more: Any) -> None:
        reason = reason[:MAX_REASON_CHARS]
        letter = DeadLetter(id=name, code=code, reason=reason, at_s=self._clock(), **more)
        self._client.eval(_ADD, 1, self._keys.dead, name, encode(letter), MAX_LETTERS)

    def _letter(self, name: str, body: bytes) -> DeadLetter:
        try:
            letter = msgspec.convert(decode(body), DeadLetter)
            if letter.chunk is not None:
                self._keys.check_blobs(letter.chunk)
        except (ValueError, msgspec.ValidationError, MessageError) as e:
            # Of another version, or not ours: a person should see it all the same.
            shown, why = body[:MAX_RAW_BYTES].decode("utf-8", "replace"), str(e)[:MAX_REASON_CHARS]
            return DeadLetter(id=name, code=UNREADABLE_LETTER, reason=why, at_s=0.0, raw=shown)
        return letter


def _message_id(content: bytes | str) -> str:
    body = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    return f"message:{hashlib.sha256(body).hexdigest()[:12]}"
