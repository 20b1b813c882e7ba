"""What changes a job's record in one step: scripts that Redis runs.

A job lives long while something of it waits, and for the usual time once it is finished: see
`JobStore`. Each script that frees memory begins with UNLINK: a Redis whose memory is full refuses a
script only if its first write could take memory. So results of what workers hold can be stored, and
jobs can be cancelled, also then; on Redis 6.2, which knows no `allow-oom`, as on later ones.
"""

from __future__ import annotations

from typing import Final

# `life` is for how many seconds a job is kept from now on.
_LIFE: Final = """
local function life(job, more, kept_s, waiting_s)
  local found = redis.call('HMGET', job, 'state', 'done', 'images', 'chunks')
  local done = tonumber(found[2] or 0) + more
  local sent = found[1] and found[1] ~= 'submitting'
  local finished = sent and done >= tonumber(found[3] or 0)
  local seconds = waiting_s
  if finished or not found[1] then seconds = kept_s end
  return seconds, found[1], finished, finished and tonumber(found[4] or 0) or 0
end
"""

# A redelivered chunk finds its bit set: its first result stays, and nothing is counted. The result
# is published too, as Celery's backend does: applications that wait by `AsyncResult` are notified.
# What is known of attempts is deleted. The chunk's message is acknowledged last, in the same step.
# KEYS: job, its bits, result, the chunk's attempts, what is held, its leases. ARGV: seq, images,
# failed, seconds to keep it when finished, seconds otherwise, the result's body or "", the
# message's delivery tag or "", and fields of the job with how many to add to each. Returns whether
# it was counted, whether there is such a job, and of one that is finished how many chunks it has.
FINISH_CHUNK: Final = f"""{_LIFE}
local again = redis.call('GETBIT', KEYS[2], ARGV[1]) == 1
redis.call('UNLINK', KEYS[4])
local more = again and 0 or tonumber(ARGV[2])
local seconds, state, _, chunks = life(KEYS[1], more, ARGV[4], ARGV[5])
if ARGV[6] ~= '' and not again then
  redis.call('SETEX', KEYS[3], seconds, ARGV[6])
  redis.call('PUBLISH', KEYS[3], ARGV[6])
end
if state then
  if not again then
    redis.call('SETBIT', KEYS[2], ARGV[1], 1)
    redis.call('HINCRBY', KEYS[1], 'done', ARGV[2])
    if ARGV[3] ~= '0' then redis.call('HINCRBY', KEYS[1], 'failed', ARGV[3]) end
    for n = 8, #ARGV, 2 do redis.call('HINCRBY', KEYS[1], ARGV[n], ARGV[n + 1]) end
  end
  redis.call('EXPIRE', KEYS[1], seconds)
  redis.call('EXPIRE', KEYS[2], seconds)
end
if ARGV[7] ~= '' then
  redis.call('ZREM', KEYS[6], ARGV[7])
  redis.call('HDEL', KEYS[5], ARGV[7])
end
if not state then return {{0, 0, 0}} end
return {{again and 0 or 1, 1, chunks}}
"""

# A job that is cancelled or finished stays so; it may finish between a look and a change.
# KEYS: job, its bits, a key that is not there. ARGV: state, seconds to keep it when finished,
# seconds otherwise. Returns whether there is such a job, whether it moved, and of one that is
# finished now how many chunks it has.
MOVE: Final = f"""{_LIFE}
redis.call('UNLINK', KEYS[3])
local _, state, finished = life(KEYS[1], 0, ARGV[2], ARGV[3])
if not state then return {{0, 0, 0}} end
if finished or state == 'cancelled' or state == ARGV[1] then return {{1, 0, 0}} end
redis.call('HSET', KEYS[1], 'state', ARGV[1])
local seconds, _, _, chunks = life(KEYS[1], 0, ARGV[2], ARGV[3])
redis.call('EXPIRE', KEYS[1], seconds)
redis.call('EXPIRE', KEYS[2], seconds)
return {{1, 1, chunks}}
"""

# KEYS: job, its bits. ARGV: seconds to keep them, fields with their values. Returns whether there
# is such a job: one that a Redis has lost must not come back as half a record.
SET_SENT: Final = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[1])
return 1
"""

# What was counted by SET_SENT has not arrived: Redis has refused it.
# KEYS: job, a key that is not there, blobs of what was refused. ARGV: images and chunks without it.
TAKE_BACK: Final = """
redis.call('UNLINK', unpack(KEYS, 2))
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'images', ARGV[1], 'chunks', ARGV[2])
return 1
"""

# KEYS: job, its bits. ARGV: seconds to keep it when finished, seconds otherwise. Returns those.
TOUCH: Final = f"""{_LIFE}
local seconds = life(KEYS[1], 0, ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], seconds)
redis.call('EXPIRE', KEYS[2], seconds)
return tonumber(seconds)
"""

# A chunk that was counted as failed is to be tried again: it is counted as if it were just sent.
# KEYS: job, its bits, its result if that is on the same server. ARGV: seq, images, code, seconds to
# keep it. Returns whether it was counted.
REOPEN: Final = """
redis.call('UNLINK', KEYS[3])
local there = redis.call('HEXISTS', KEYS[1], ARGV[3])
if there == 0 or redis.call('GETBIT', KEYS[2], ARGV[1]) == 0 then return 0 end
redis.call('SETBIT', KEYS[2], ARGV[1], 0)
for _, field in ipairs({'done', 'failed', ARGV[3]}) do
  redis.call('HINCRBY', KEYS[1], field, -ARGV[2])
end
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('EXPIRE', KEYS[2], ARGV[4])
return 1
"""

# Chunks whose messages are gone are counted as failed, unless something has come meanwhile.
# KEYS: job, its bits, a key that is not there. ARGV: how many images were done, how many are lost,
# the field of their code, seconds to keep it when finished, seconds otherwise, and the chunks.
# Returns whether they were counted, and of a job that is finished how many chunks it has.
LOSE: Final = f"""{_LIFE}
redis.call('UNLINK', KEYS[3])
if redis.call('HGET', KEYS[1], 'done') ~= ARGV[1] then return {{0, 0}} end
for n = 6, #ARGV do
  if redis.call('GETBIT', KEYS[2], ARGV[n]) == 1 then return {{0, 0}} end
end
for n = 6, #ARGV do redis.call('SETBIT', KEYS[2], ARGV[n], 1) end
for _, field in ipairs({{'done', 'failed', ARGV[3]}}) do
  redis.call('HINCRBY', KEYS[1], field, ARGV[2])
end
local seconds, _, _, chunks = life(KEYS[1], 0, ARGV[4], ARGV[5])
redis.call('EXPIRE', KEYS[1], seconds)
redis.call('EXPIRE', KEYS[2], seconds)
return {{1, chunks}}
"""
