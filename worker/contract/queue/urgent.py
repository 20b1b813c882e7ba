"""Urgent messages that nobody waits for any more -> out of the queue, and their bytes with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from worker.contract.keys import Keys

if TYPE_CHECKING:
    import redis

# Urgent messages are at the heads of their lists: so many are looked at in each.
_LOOKED_AT: Final = 2048

# KEYS: the two lists where they wait, then blobs. ARGV: `"JOB-`, how many to look at, and numbers
# of chunks. Returns the numbers of those that were taken out. It begins with what frees memory, so
# a Redis that is full runs it, too.
_WITHDRAW: Final = """
for n = 3, #KEYS do redis.call('UNLINK', KEYS[n]) end
local wanted, left, taken = {}, #ARGV - 2, {}
for n = 3, #ARGV do wanted[ARGV[n]] = true end
for list = 1, 2 do
  local place, looked = -1, 0
  while left > 0 and looked < tonumber(ARGV[2]) do
    local raw = redis.call('LINDEX', KEYS[list], place)
    if not raw then break end
    looked = looked + 1
    local from = string.find(raw, ARGV[1], 1, true)
    local seq = from and string.match(raw, '^(%d+)"', from + #ARGV[1])
    if seq and wanted[seq] then
      redis.call('LREM', KEYS[list], -1, raw)
      wanted[seq], left = nil, left - 1
      taken[#taken + 1] = tonumber(seq)
    else
      place = place - 1
    end
  end
end
return taken
"""


def withdraw(
    client: redis.Redis, keys: Keys, job: str, seqs: Sequence[int], blobs: Iterable[str]
) -> set[int]:
    """Delete the blobs, and take those urgent messages of a job that still wait out of the queue.

    Return the numbers of those that were taken out; the others are held by workers, or are done.

    Raises:
        redis.RedisError: Redis is away.
    """
    asked: Any = client
    names = (keys.queue, keys.urgent_queue, *blobs)
    return set(asked.eval(_WITHDRAW, len(names), *names, f'"{job}-', _LOOKED_AT, *seqs))
