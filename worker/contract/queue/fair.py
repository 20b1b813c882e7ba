"""The queue shared by all jobs: a list for each, and one step that takes the next message.

::

    senders --LPUSH--> queue --sort--> urgent, or the list of its job --take--> held, with a lease
                                                                           +--> processing

Any client may add a message to the queue with one LPUSH. Workers sort what they find there and take
from the job whose turn it is, in one script. What has a delivery tag is leased to the worker in the
same step; anything else goes to the processing list, where the worker looks at it.

A job's turn comes by start-time fair queueing: a sum goes with each job that waits, of the images
taken for it by its weight, and the least goes first. A job that begins to wait starts at the least
sum there is: it is owed nothing for earlier.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, Literal

from redis.exceptions import NoScriptError

from worker.contract.codec import decode
from worker.contract.keys import Keys
from worker.contract.messages import QUEUE

if TYPE_CHECKING:
    import redis

# The header of a message that says how many images its chunk holds.
IMAGES_HEADER: Final = "images"

# How many messages are sorted at a time, at most: about two milliseconds of Redis.
_SORTED: Final = 128
# Longer ones are not parsed in Redis, which does nothing else meanwhile; workers refuse them later.
_PARSED_BYTES: Final = 8 * 2**20
# How many jobs are looked at to find the oldest message.
_LOOKED_AT: Final = 100

# KEYS: queue, urgent, turns. ARGV[1]: prefix of the jobs' lists; ARGV[2]: how many to sort at most;
# ARGV[3]: from how many bytes a message is not parsed. A message is looked at where it is, and
# moved by one command: whatever Redis refuses meanwhile, it is in one list. So a job gets its turn
# first; one without messages is passed over.
_SORT: Final = """
local function parsed(raw)
  if #raw >= tonumber(ARGV[3]) then return {}, {} end
  -- The body, most of a message, says nothing here: it is left out, up to a quote that ends it.
  local first, last, rest = string.match(raw, '^{"body":%s*"()'), nil, raw
  if first then last = string.find(raw, '"', first, true) end
  if last and string.byte(raw, last - 1) ~= 92 then
    rest = '{"body":""' .. string.sub(raw, last + 1)
  end
  local ok, message = pcall(cjson.decode, rest)
  if not ok or type(message) ~= 'table' then return {}, {} end
  local headers, properties = message.headers, message.properties
  if type(headers) ~= 'table' then headers = {} end
  if type(properties) ~= 'table' then properties = {} end
  return headers, properties
end

for _ = 1, tonumber(ARGV[2]) do
  local raw = redis.call('LINDEX', KEYS[1], -1)
  if not raw then break end
  local headers, properties = parsed(raw)
  if properties.priority == 9 then
    redis.call('LMOVE', KEYS[1], KEYS[2], 'RIGHT', 'LEFT')
  else
    local id, delivery = headers.id, properties.delivery_info
    local job = type(id) == 'string' and string.match(id, '^([%w_.-]+)-%d+$')
    if not job or #job > 64 then job = '' end
    if not redis.call('ZSCORE', KEYS[3], job) then
      local first = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
      redis.call('ZADD', KEYS[3], first[2] or 0, job)
    end
    -- What was delivered before goes first: whoever waits for it has waited for a lease.
    local again = type(delivery) == 'table' and delivery.redelivered == true
    redis.call('LMOVE', KEYS[1], ARGV[1] .. job, 'RIGHT', again and 'RIGHT' or 'LEFT')
  end
end
"""

# As above, and KEYS[4]: processing; KEYS[5]: held; KEYS[6]: leases. ARGV[4]: prefix of the jobs'
# records; ARGV[5]: what to take; ARGV[6]: what ends a message as it is held. Returns the message
# with its delivery tag if it is held now, the message alone if it is on the processing list.
_TAKE: Final = (
    _SORT
    + """
local weights = {low = 0.25, normal = 1, high = 4}

local function took(reply) return type(reply) ~= 'table' or not reply.err end

local function take(list, raw, properties)
  local tag = properties.delivery_tag
  if type(tag) == 'string' and tag ~= '' and #tag <= 1024 then
    local now = redis.call('TIME')
    local now_s = string.format('%d.%06d', now[1], now[2])
    -- Whatever else may lie under these names: then it is found on the processing list.
    if took(redis.pcall('ZADD', KEYS[6], now_s, tag))
      and took(redis.pcall('HSET', KEYS[5], tag, '[' .. raw .. ARGV[6])) then
      redis.call('RPOP', list)
      return {raw, tag}
    end
  end
  return redis.call('LMOVE', list, KEYS[4], 'RIGHT', 'LEFT')
end

local urgent = redis.call('LINDEX', KEYS[2], -1)
if urgent then
  local _, properties = parsed(urgent)
  return take(KEYS[2], urgent, properties)
end
local found
while not found and ARGV[5] == 'any' do
  local job = redis.call('ZRANGE', KEYS[3], 0, 0)[1]
  if not job then break end
  local list = ARGV[1] .. job
  local next = redis.call('LINDEX', list, -1)
  if next then
    local headers, properties = parsed(next)
    local images = tonumber(headers.images) or 8
    if not (images >= 1 and images <= 1024) then images = 8 end
    local priority = redis.call('HGET', ARGV[4] .. job, 'priority')
    redis.call('ZINCRBY', KEYS[3], images / (priority and weights[priority] or 1), job)
    found = take(list, next, properties)
  end
  if redis.call('EXISTS', list) == 0 then redis.call('ZREM', KEYS[3], job) end
end
return found
"""
)
# The name that Redis gives it, which is no secret.
_TAKE_SHA: Final = hashlib.sha1(_TAKE.encode(), usedforsecurity=False).hexdigest()
# What is held: the message, then where it came from: an exchange, which has no name, and the queue.
_HELD_END: Final = f',"","{QUEUE}"]'

# KEYS: queue, urgent, turns. ARGV[1]: prefix of the jobs' lists.
_COUNT: Final = """
local waiting = redis.call('LLEN', KEYS[1]) + redis.call('LLEN', KEYS[2])
for _, job in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  waiting = waiting + redis.call('LLEN', ARGV[1] .. job)
end
return waiting
"""

# As above. Every list is deleted, which frees its memory also where Redis is full.
_PURGE: Final = """
local waiting = redis.call('LLEN', KEYS[1]) + redis.call('LLEN', KEYS[2])
for _, job in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  waiting = waiting + redis.call('LLEN', ARGV[1] .. job)
  redis.call('UNLINK', ARGV[1] .. job)
end
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3])
return waiting
"""

Wanted = Literal["any", "urgent"]
# A message on the processing list, or one that is held, with its delivery tag.
Taken = bytes | tuple[bytes, bytes]


def taken(reply: Any) -> Any:
    """Return what a reply to `FairQueue.take_command` says: `Taken`, or None."""
    return tuple(reply) if isinstance(reply, list) else reply


class FairQueue:
    """The messages that wait, at one Redis. Nothing is held between calls."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._lists = (keys.queue, keys.urgent_queue, keys.turns)
        self._sort = (keys.waiting(""), str(_SORTED), str(_PARSED_BYTES))

    def take_command(self, what: Wanted = "any", *, whole: bool = False) -> tuple[Any, ...]:
        """Return the command that takes the next message; see `taken` for what it answers with.

        It also sorts some of what lies in the queue. A Redis that does not know the script, yet or
        any more, says so, and wants the `whole` of it.
        """
        keys = self._keys
        names = (*self._lists, keys.processing, keys.unacked, keys.unacked_index)
        script = ("EVAL", _TAKE) if whole else ("EVALSHA", _TAKE_SHA)
        return (*script, len(names), *names, *self._sort, keys.job(""), what, _HELD_END)

    def take(self, client: redis.Redis, what: Wanted = "any") -> Taken | None:
        """Take the next message, if there is one."""
        asked: Any = client
        try:
            reply = asked.execute_command(*self.take_command(what))
        except NoScriptError:
            reply = asked.execute_command(*self.take_command(what, whole=True))
        found: Taken | None = taken(reply)
        return found

    def size_command(self) -> tuple[Any, ...]:
        """Return the command that answers with how many messages wait, of all jobs."""
        return ("EVAL", _COUNT, len(self._lists), *self._lists, self._keys.waiting(""))

    def size(self, client: redis.Redis) -> int:
        """Return how many messages wait, of all jobs."""
        any_client: Any = client
        return int(any_client.execute_command(*self.size_command()))

    def purge(self, client: redis.Redis) -> int:
        """Delete all messages that wait; return how many."""
        any_client: Any = client
        return int(any_client.eval(_PURGE, 3, *self._lists, self._keys.waiting("")))

    def oldest(self, client: redis.Redis) -> Iterator[dict[str, Any]]:
        """Yield the messages that are next in their lists, as far as they can be parsed."""
        any_client: Any = client
        jobs = any_client.zrange(self._keys.turns, 0, _LOOKED_AT - 1)
        lists = [self._keys.waiting(job.decode("utf-8", "replace")) for job in jobs]
        with any_client.pipeline(transaction=False) as pipe:
            for name in (self._keys.queue, self._keys.urgent_queue, *lists):
                pipe.lindex(name, -1)
            found = pipe.execute()
        for raw in found:
            if raw is None:
                continue
            try:
                message = decode(raw)
            except ValueError:
                continue
            if isinstance(message, dict):
                yield message
