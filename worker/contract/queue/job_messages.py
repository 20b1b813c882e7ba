"""Job -> its messages in Redis: which chunks wait or are held, and which have vanished.

The one place that knows where messages of a job may be. They leave the queue without a result when
somebody purges it, revokes a task, or deletes the list.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from worker.contract.keys import Keys
from worker.contract.stores.blobs import BlobStore
from worker.contract.stores.jobs import Job, JobStore

if TYPE_CHECKING:
    import redis

# So many messages are looked at in one step of Redis, which serves nobody else meanwhile.
_AT_ONCE: Final = 256

# A message names its task id as a JSON string; a header says how many images it holds, and so do
# versions before that header for people. The body is base64, so all that is a header.
# ARGV: `"JOB-`. Returns the numbers of chunks, each with its images or -1.
_NOTE: Final = """
local found = {}
local function note(message)
  local from = string.find(message, ARGV[1], 1, true)
  local seq = from and string.match(message, '^(%d+)"', from + #ARGV[1])
  if not seq then return end
  local images = string.match(message, '"images":%s*(%d+)')
    or string.match(message, '"argsrepr":%s*"%((%d+) image')
  found[#found + 1] = tonumber(seq)
  found[#found + 1] = tonumber(images or -1)
end
"""
# KEYS: a list. ARGV: as above, first and last place.
_IN_LIST: Final = f"""{_NOTE}
local some = redis.call('LRANGE', KEYS[1], ARGV[2], ARGV[3])
for _, message in ipairs(some) do note(message) end
return {{#some, found}}
"""
# KEYS: a hash.
_IN_HASH: Final = f"""{_NOTE}
for _, message in ipairs(redis.call('HVALS', KEYS[1])) do note(message) end
return found
"""

# KEYS: a list. ARGV: as above, first and last place. What is the job's there is taken out.
_TAKE_OUT: Final = """
local some, taken = redis.call('LRANGE', KEYS[1], ARGV[2], ARGV[3]), {}
for _, message in ipairs(some) do
  if string.find(message, ARGV[1], 1, true) then
    redis.call('LREM', KEYS[1], 1, message)
    taken[#taken + 1] = message
  end
end
return {#some, taken}
"""

# A job is looked at when nothing of it has come for so long.
STILL_S: Final = 4.0
# What a producer has counted and not sent yet may be on its way for as long as it tries: longer
# than by default (WANWU_REDIS_RETRY_TIMEOUT_S).
SENDING_S: Final = 900.0
_PAUSE_S: Final = 1.0
# Looking takes at most a fiftieth of the time.
_PAUSE_RATIO: Final = 50


def chunks_in_redis(client: redis.Redis, keys: Keys, job_id: str) -> dict[int, int]:
    """Return the chunks of a job that wait or are held, with their images; -1 if unknown.

    The lists are read in parts, in the order in which messages move: one that moves on meanwhile is
    seen where it comes to. One that a dead worker held and that goes back may be missed: look twice
    before you call a chunk lost.
    """
    asked: Any = client
    name, found = f'"{job_id}-', list[int]()
    for key in (keys.queue, keys.waiting(job_id), keys.processing, keys.newer):
        start = 0
        while True:
            count, some = asked.eval(_IN_LIST, 1, key, name, start, start + _AT_ONCE - 1)
            found += some
            start += _AT_ONCE
            if count < _AT_ONCE:
                break
    found += asked.eval(_IN_HASH, 1, keys.unacked, name)
    return dict(zip(found[::2], found[1::2], strict=True))


def take_out(client: redis.Redis, keys: Keys, job_id: str) -> Iterator[bytes]:
    """Yield the messages of a job that wait; they leave the queue, also where Redis is full."""
    asked: Any = client
    while found := asked.lpop(keys.waiting(job_id), _AT_ONCE):
        yield from found
    name = f'"{job_id}-'
    for key in (keys.queue, keys.newer):
        start = 0
        while True:
            count, taken = asked.eval(_TAKE_OUT, 1, key, name, start, start + _AT_ONCE - 1)
            yield from taken
            start += count - len(taken)
            if count < _AT_ONCE:
                break
    # Meanwhile a worker may have sorted what was on its way.
    while found := asked.lpop(keys.waiting(job_id), _AT_ONCE):
        yield from found


def newer_messages(client: redis.Redis, keys: Keys) -> int:
    """Return how many messages wait for workers of a later version."""
    asked: Any = client
    return int(asked.llen(keys.newer))


class LossCheck:
    """Finds chunks of one job whose messages have vanished, and counts their images as failed.

    It is called often, by whoever waits for the job, and looks only when nothing has come for some
    seconds; a chunk is lost if it is missed twice.
    """

    def __init__(
        self,
        client: redis.Redis,
        jobs: JobStore,
        job_id: str,
        *,
        still_s: float = STILL_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the job's Redis, and for how long nothing has come before a look is taken."""
        self._client = client
        self._jobs = jobs
        self._job_id = job_id
        self._still_s = still_s
        self._now = now
        self._before: tuple[object, ...] = ()
        self._since_s = self._next_s = 0.0
        self._missing: Sequence[int] = ()

    @property
    def suspects(self) -> bool:
        """Whether chunks were missed in the last look."""
        return bool(self._missing)

    def look(self, job: Job | None = None) -> int:
        """Return how many images are found to be lost now: they count as failed, `message_lost`.

        Raises:
            redis.RedisError: Redis is away.
            NoSuchJobError: the job is gone.
        """
        if self._now() < self._next_s:
            return 0
        began_s = self._now()
        lost = self.look_now(job)
        took_s = self._now() - began_s
        self._next_s = self._now() + max(_PAUSE_S, _PAUSE_RATIO * took_s)
        return lost

    def look_now(self, job: Job | None = None) -> int:
        """Do the same, however soon after the last look."""
        job = job or self._jobs.get(self._job_id)
        return self._look(job) if self._is_still(job) else 0

    def _is_still(self, job: Job) -> bool:
        state = (job.state, job.images, job.done, job.published)
        if state != self._before:
            self._before, self._since_s, self._missing = state, self._now(), ()
        is_sent = job.state != "submitting" or job.published == job.chunks
        if job.prefix is None:
            # Of a version before the prefix: its messages may be where those were.
            return False
        enough_s = self._still_s if is_sent else max(self._still_s, SENDING_S)
        return job.outstanding > 0 and self._now() - self._since_s >= enough_s

    def _look(self, job: Job) -> int:
        there = chunks_in_redis(self._client, self._jobs.keys, job.id)
        open_chunks = self._jobs.unfinished_chunks(job.id, job.chunks)
        missing = [seq for seq in open_chunks if seq not in there]
        before, self._missing = self._missing, missing
        images = [there[seq] for seq in open_chunks if seq in there]
        lost = job.outstanding - sum(images)
        if not missing or missing != before or lost <= 0 or -1 in images:
            return 0
        if not self._jobs.lose_chunks(job, missing, images=lost):
            return 0
        self._missing = ()
        if job.blobs:
            blob = self._jobs.keys.blob
            names = (blob(job.id, seq, index) for seq in missing for index in range(job.blobs))
            BlobStore(self._client, 1, self._jobs.keys).drop(names)
        return lost


def look_twice(
    client: redis.Redis,
    jobs: JobStore,
    found: Iterable[Job],
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, int]:
    """Return the images of these jobs that are lost, by job, and count them as failed.

    For whoever looks once: only jobs that have been sent are looked at, and where messages are
    missing, once more after a second.
    """
    checks = {}
    for job in found:
        if job.outstanding and job.state != "submitting":
            check = checks[job.id] = LossCheck(client, jobs, job.id, still_s=0.0)
            check.look_now(job)
    suspects = {job_id: check for job_id, check in checks.items() if check.suspects}
    if suspects:
        sleep(_PAUSE_S)
    lost = {job_id: check.look_now() for job_id, check in suspects.items()}
    return {job_id: images for job_id, images in lost.items() if images}
