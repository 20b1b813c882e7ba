"""Dead letters: images that killed workers, and messages that workers cannot process.

Each image has its failed record where there is a job to record it in. The list is for a person, who
can look at a letter and send it again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec

from worker.contract.codec import decode, encode
from worker.contract.keys import DEFAULT_KEYS, Keys
from worker.contract.messages import Chunk, MessageError, split_task_id

if TYPE_CHECKING:
    import redis

MAX_LETTERS: Final = 10_000
# A message of ours that cannot be read here is kept whole up to so many bytes: twice the size of
# 1,024 images with paths of 400 characters. Of others, and of longer ones, the beginning is kept.
MAX_WHOLE_BYTES: Final = 1024 * 1024
MAX_RAW_BYTES: Final = 4096
MAX_REASON_CHARS: Final = 1024
# Codes of letters; those of images are in `worker.errors`.
UNREADABLE: Final = "unreadable_message"
UNREADABLE_LETTER: Final = "unreadable_letter"
NEWER_VERSION: Final = "newer_version"
FOREIGN_ID: Final = "foreign_id"

# KEYS: the letters, and the list that the message is on, if it is on one. ARGV: field, letter, most
# letters, the message. A full list takes no more; what has left its list is somebody else's by now.
_ADD: Final = """
if KEYS[2] and redis.call('LREM', KEYS[2], 1, ARGV[4]) == 0 then return 0 end
if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
"""

# KEYS: the letters, what is held, its leases. ARGV: field, letter, most letters, tag, the message
# as it is held. As above; whether there can be letters is asked before anything is changed.
_ADD_HELD: Final = """
if redis.call('HGET', KEYS[2], ARGV[4]) ~= ARGV[5] then return 0 end
local letters = redis.call('HLEN', KEYS[1])
redis.call('ZREM', KEYS[3], ARGV[4])
redis.call('HDEL', KEYS[2], ARGV[4])
if letters < tonumber(ARGV[3]) then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
return 1
"""

# KEYS: the letters, the claims. ARGV: for how many seconds, and fields. Returns those that are
# there and that nobody else has claimed.
_CLAIM: Final = """
local now, found = tonumber(redis.call('TIME')[1]), {}
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
for n = 2, #ARGV do
  if redis.call('HEXISTS', KEYS[1], ARGV[n]) == 1
    and redis.call('ZADD', KEYS[2], 'NX', now + ARGV[1], ARGV[n]) == 1 then
    found[#found + 1] = ARGV[n]
  end
end
redis.call('EXPIRE', KEYS[2], ARGV[1])
return found
"""
# So long a letter is left to whoever claimed it: it is there again if that process was killed.
CLAIM_S: Final = 300
_AT_ONCE: Final = 1000

Form = Literal["", "message", "chunk"]


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """An image, a chunk or a message that is not tried again, when, and why.

    `chunk` is what to send again: the one image, or all images of the chunk. Without it the message
    could not be read, and `raw` is what it holds. With a `form` that is all of it, so it can be
    sent again as it was, under its `task_id`: the whole message, or the chunk alone. Without one it
    is the beginning. `images` is how many it holds, 0 if that is not known.
    """

    id: str
    code: str
    reason: str
    at_s: float
    chunk: Chunk | None = None
    raw: str = ""
    form: Form = ""
    task_id: str = ""
    images: int = 0

    @property
    def can_be_sent(self) -> bool:
        """Whether all is there that it takes to send it again."""
        return self.chunk is not None or bool(self.form)


class Unread(NamedTuple):
    """A message, or a chunk, that could not be read, with what is known of it.

    `source` is the list in Redis that it lies on, if it is a message.
    """

    body: bytes
    task_id: str = ""
    images: int = 0
    source: str = ""

    @property
    def form(self) -> Form:
        """What is kept: one that is not a chunk's, or is too long, cannot be sent again."""
        if len(self.body) > MAX_WHOLE_BYTES or split_task_id(self.task_id) is None:
            return ""
        try:
            self.body.decode()
        except UnicodeDecodeError:
            return ""
        return "message" if self.source else "chunk"


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
        self.add_unread(Unread(raw), UNREADABLE, reason)

    def add_unread(self, unread: Unread, code: str, reason: str) -> None:
        """Move a message that could not be read from its list here, in one step."""
        self._store(self._unread_letter(unread, code, reason), unread)

    def add_held(self, unread: Unread, reason: str, tag: bytes | str, held: bytes) -> bool:
        """Do the same with one that a worker held; return whether it was there."""
        letter = self._unread_letter(unread, UNREADABLE, reason)
        keys = (self._keys.dead, self._keys.unacked, self._keys.unacked_index)
        args = (letter.id, encode(letter), MAX_LETTERS, tag, held)
        return bool(self._client.eval(_ADD_HELD, len(keys), *keys, *args))

    def _unread_letter(self, unread: Unread, code: str, reason: str) -> DeadLetter:
        body, form = unread.body, unread.form
        return DeadLetter(
            id=_message_id(body),
            code=code,
            reason=reason[:MAX_REASON_CHARS],
            at_s=self._clock(),
            raw=(body if form else body[:MAX_RAW_BYTES]).decode("utf-8", "replace"),
            form=form,
            task_id=unread.task_id if form else "",
            images=unread.images,
        )

    def list(self) -> list[DeadLetter]:
        """Return all, the oldest first."""
        found = self._client.hgetall(self._keys.dead).items()
        letters = [self._letter(name.decode("utf-8", "replace"), body) for name, body in found]
        return sorted(letters, key=lambda letter: (letter.at_s, letter.id))

    def count(self) -> int:
        """Return how many there are."""
        return int(self._client.hlen(self._keys.dead))

    def claim(self, letters: Sequence[DeadLetter]) -> Sequence[DeadLetter]:
        """Return those of the letters that the caller alone may send again now.

        They stay on the list. Whoever has sent them removes them; if not, they are to be released.
        """
        mine: set[bytes] = set()
        for start in range(0, len(letters), _AT_ONCE):
            ids = [letter.id for letter in letters[start : start + _AT_ONCE]]
            both = (self._keys.dead, self._keys.claims)
            mine.update(self._client.eval(_CLAIM, len(both), *both, CLAIM_S, *ids))
        return [letter for letter in letters if letter.id.encode() in mine]

    def release(self, letters: Iterable[DeadLetter]) -> None:
        """Leave letters that were claimed to others."""
        if ids := [letter.id for letter in letters]:
            self._client.zrem(self._keys.claims, *ids)

    def remove(self, letters: Iterable[DeadLetter]) -> None:
        """Take these off the list."""
        if ids := [letter.id for letter in letters]:
            with self._client.pipeline() as pipe:
                pipe.hdel(self._keys.dead, *ids)
                pipe.zrem(self._keys.claims, *ids)
                pipe.execute()

    def _add(self, name: str, code: str, reason: str, **more: Any) -> None:
        reason = reason[:MAX_REASON_CHARS]
        letter = DeadLetter(id=name, code=code, reason=reason, at_s=self._clock(), **more)
        self._store(letter)

    def _store(self, letter: DeadLetter, unread: Unread | None = None) -> None:
        source = [unread.source] if unread and unread.source else []
        message = [unread.body] if unread and unread.source else []
        keys, body = [self._keys.dead, *source], encode(letter)
        self._client.eval(_ADD, len(keys), *keys, letter.id, body, MAX_LETTERS, *message)

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
