"""What was written to a master -> written to replicas as well, or known to be lost.

Redis replicates asynchronously: what a master has answered, and not passed on, is lost when a
replica takes its place. `WAIT` tells how many replicas have everything up to the last write of a
connection, whoever made the writes before that.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any, Final

import redis

from worker.contract.keys import Keys

# Less than a reply may take.
WAIT_S: Final = 2.0
_KEPT_S: Final = 3600


class ReplicationError(redis.ConnectionError):
    """What was written may be lost: write it again. It is an absence like others."""


def await_replicas(
    client: Any,
    keys: Keys,
    replicas: int,
    timeout_s: float,
    *,
    now: Callable[[], float] = time.monotonic,
) -> None:
    """Return once so many replicas have all that was written so far; at once for 0.

    A mark is written after the rest. Replication keeps the order, so as long as the mark is there,
    also on another master, nothing before it is lost, and there is no need to write it again.

    Raises:
        ReplicationError: the mark is lost, or there are too few replicas for `timeout_s`.
        redis.RedisError: the master is away, or refuses.
    """
    if not replicas:
        return
    mark, ends_s = keys.replicated(secrets.token_hex(8)), now() + timeout_s
    was_there, reached = _wait(client, mark, replicas)
    while reached < replicas:
        if now() > ends_s:
            msg = f"only {reached} of {replicas} replicas have what was sent"
            raise ReplicationError(msg)
        was_there, reached = _wait(client, mark, replicas)
        if not was_there:
            msg = "another master has not got what was sent"
            raise ReplicationError(msg)
    client.unlink(mark)


def _wait(client: Any, mark: str, replicas: int) -> tuple[bool, int]:
    """Write the mark; return whether it was there before, and how many replicas have it."""
    with client.pipeline(transaction=False) as pipe:
        pipe.exists(mark)
        pipe.set(mark, "", ex=_KEPT_S)
        pipe.execute_command("WAIT", replicas, int(WAIT_S * 1000))
        was_there, _, reached = pipe.execute()
    return bool(was_there), int(reached)
