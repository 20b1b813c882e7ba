"""Redis -> how much there is to do, over all jobs: one look for whoever shows it."""

from __future__ import annotations

import base64
import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import msgspec

from worker.contract.codec import decode
from worker.contract.queue.fair import FairQueue
from worker.contract.queue.job_messages import newer_messages
from worker.contract.redis.memory import MemoryWatch

if TYPE_CHECKING:
    import redis

    from worker.contract.keys import Keys
    from worker.contract.stores.dead_letters import DeadLetters
    from worker.contract.stores.jobs import JobStore


class QueueStats(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen at one moment.

    `images` were submitted and have no result yet: they wait, or a worker has them. `done` is how
    many have, by job; `states` how many jobs are in each. `waiting` and `in_workers` count chunks;
    `oldest_s` is the age of the next that waits, 0 if none does; `newer` are of a later version.
    `memory` is the share of Redis' memory in use, 0 if it has no limit.
    """

    images: int
    done: Mapping[str, int]
    states: Mapping[str, int]
    waiting: int
    in_workers: int
    oldest_s: float
    newer: int = 0
    memory: float = 0.0
    dead_letters: int


def look(client: redis.Redis, keys: Keys, jobs: JobStore, dead: DeadLetters) -> QueueStats:
    """Return the backlog now.

    Raises:
        redis.RedisError: Redis does not answer.
    """
    known, queue, lists = jobs.list(), FairQueue(keys), cast("Any", client)
    return QueueStats(
        images=sum(job.outstanding for job in known),
        done={job.id: job.done for job in known},
        states=Counter(job.status for job in known),
        waiting=queue.size(client),
        in_workers=lists.hlen(keys.unacked) + lists.llen(keys.processing),
        oldest_s=max(map(_age_s, queue.oldest(client)), default=0.0),
        newer=newer_messages(client, keys),
        memory=MemoryWatch(client).percent / 100,
        dead_letters=dead.count(),
    )


def _age_s(message: Mapping[str, Any]) -> float:
    try:
        body = decode(base64.b64decode(message["body"]))
        return max(0.0, time.time() - float(body[0][0]["sent_at_s"]))
    except (ValueError, LookupError, TypeError):
        # What waits is no message of ours: workers will say so.
        return 0.0
