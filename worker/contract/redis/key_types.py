"""Names of ours that hold something of another type -> a sentence that says which.

Redis says of a command that it met the wrong kind of value, and not where. It comes from a program
that writes below our prefix.
"""

from __future__ import annotations

from typing import Any, Final

import redis

from worker.contract.i18n import Message
from worker.contract.i18n import gettext_noop as N_
from worker.contract.keys import Keys
from worker.contract.printable import printable
from worker.contract.redis.errors import code_of, reason_of

WRONG_TYPE: Final = "WRONGTYPE"
# Of so many jobs that have messages waiting, the lists are looked at.
_JOBS: Final = 100


def is_wrong_type(error: BaseException | None) -> bool:
    """Whether a command failed because something of another type is under a name."""
    return isinstance(error, redis.ResponseError) and code_of(error) == WRONG_TYPE


def wrong_type(client: redis.Redis, keys: Keys, job: str = "") -> Message | None:
    """Return which name holds something of another type, if one does; two round trips.

    Where the user may not ask, nothing is returned.

    Raises:
        redis.RedisError: Redis does not answer.
    """
    asked: Any = client
    wanted = _wanted(keys) | (_wanted_of(keys, job) if job else {})
    try:
        found = _odd(asked, wanted)
        if not found:
            jobs = asked.zrange(keys.turns, 0, _JOBS - 1)
            lists = [keys.waiting(one.decode("utf-8", "replace")) for one in jobs]
            found = _odd(asked, dict.fromkeys(lists, "list"))
    except redis.ResponseError:
        return None
    if not found:
        return None
    key, kind, right = found
    return Message(
        N_(
            "{key} is of type {kind} and not {right}: something else wrote there; once it is "
            "deleted or renamed, the work goes on"
        ),
        key=printable(key),
        kind=kind,
        right=right,
    )


def explained(error: BaseException, client: redis.Redis, keys: Keys) -> str:
    """Return what went wrong, for a log, with the name that holds another type, if that is it."""
    if is_wrong_type(error):
        try:
            found = wrong_type(client, keys)
        except redis.RedisError:
            found = None
        if found is not None:
            return f"{WRONG_TYPE} {found}"
    return reason_of(error)


def _odd(client: Any, wanted: dict[str, str]) -> tuple[str, str, str] | None:
    """Return a name with its type and the right one, if any has a wrong one."""
    with client.pipeline(transaction=False) as pipe:
        for key in wanted:
            pipe.type(key)
        kinds = [kind.decode() for kind in pipe.execute()]
    for (key, right), kind in zip(wanted.items(), kinds, strict=True):
        if kind not in {right, "none"}:
            return key, kind, right
    return None


def _wanted(keys: Keys) -> dict[str, str]:
    return {
        **dict.fromkeys((keys.queue, keys.urgent_queue, keys.processing, keys.newer), "list"),
        **dict.fromkeys((keys.turns, keys.unacked_index, keys.jobs, keys.claims), "zset"),
        **dict.fromkeys((keys.unacked, keys.dead), "hash"),
    }


def _wanted_of(keys: Keys, job: str) -> dict[str, str]:
    return {keys.job(job): "hash", keys.done(job): "string", keys.waiting(job): "list"}
