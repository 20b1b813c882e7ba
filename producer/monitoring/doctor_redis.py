"""Redis -> findings: its answers, memory, clock, queue, and jobs that have lost messages."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

import redis

from producer.backend.connection import Connection
from producer.backend.queue_problems import full_sentence, later_sentence, lost_sentence
from producer.monitoring.finding import Finding
from worker.contract.i18n import gettext as _
from worker.contract.i18n import gettext_noop as N_
from worker.contract.queue.fair import FairQueue
from worker.contract.queue.job_messages import look_twice, newer_messages
from worker.contract.redis.connections import connect
from worker.contract.redis.key_types import wrong_type
from worker.contract.redis.memory import FULL_SHARE, memory_share
from worker.contract.redis.rights import RightsError
from worker.contract.redis.server_check import refusal, result_commands, write_commands
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings
from worker.contract.stores.dead_letters import DeadLetters
from worker.contract.stores.jobs import MESSAGE_LOST

_CLOCKS_S: Final = 2.0
START: Final = N_(
    "start one (redis-server, or docker compose up redis), or name it: export "
    "WANWU_BROKER_URL=redis://..."
)
_WRONG_LOGIN: Final = N_(
    "put the right password into WANWU_BROKER_URL: redis://:PASSWORD@HOST:6379/0"
)
_WRONG_SENTINEL_LOGIN: Final = N_(
    "put the sentinels' own password into WANWU_SENTINEL_PASSWORD, and the name of an ACL user "
    "into WANWU_SENTINEL_USER"
)
OTHER: Final = N_("upgrade it, or name another in WANWU_BROKER_URL")
_OUT_OF_MEMORY: Final = "OOM"
# By the code of what Redis says.
_REFUSED: Final = {
    "READONLY": N_("it is a replica: name the master in {variable}, or promote this one"),
    _OUT_OF_MEMORY: N_(
        "its memory is full: producer results JOB --drop, and producer cancel JOB --drop, free "
        "what a job holds (producer status lists them); or raise maxmemory"
    ),
    "MISCONF": N_("it cannot write to its disk: make room there; its log says more"),
    "NOPERM": N_("its user lacks rights: ACL SETUSER"),
}


def unreachable_todo(cause: BaseException | None) -> str:
    """Return what to do about a Redis that cannot be reached, in English."""
    if not isinstance(cause, redis.AuthenticationError):
        return START
    return _WRONG_SENTINEL_LOGIN if "sentinel" in str(cause) else _WRONG_LOGIN


def rights_todo(settings: Settings, error: RightsError) -> str:
    """Return how to give the rights that are missing, with those to keys as one."""
    url = error.url if isinstance(error.url, SecretUrl) else settings.broker_url
    keys = f"~{settings.keys.prefix}*"
    given = [keys if one.startswith("~") else one for one in error.rights]
    return _("ACL SETUSER {user} {rights} (ops/docs/deployment.md has all that users need)").format(
        user=url.address.user or "default", rights=" ".join(dict.fromkeys(given))
    )


def redis_findings(connection: Connection) -> Iterator[Finding]:
    """Yield what is found of Redis, which is asked but once: who looks does not wait for it."""
    url = connection.settings.broker_url
    with connect(url) as client:
        began_s = time.monotonic()
        about: dict[str, Any] = _asked(client.info) or {}
        took_ms = (time.monotonic() - began_s) * 1000
        server = str(about.get("redis_version", _("of unknown version")))
        yield Finding(
            "ok",
            _("Redis {version} at {url} answers in {took_ms:.1f} ms").format(
                version=server, url=url, took_ms=took_ms
            ),
        )
        refused = refusal(client, write_commands(connection.keys))
        yield from _refusal(refused)
        if odd := _asked(wrong_type, client, connection.keys):
            yield Finding("fail", str(odd))
        yield from _full(about, refused)
        yield from _keeping(client, about)
        yield from _clock(client)
        waiting = _asked(FairQueue(connection.keys).size, client)
        dead = _asked(DeadLetters(client, connection.keys).count)
        newer = _asked(newer_messages, client, connection.keys)
    if waiting is not None:
        yield Finding("ok", _("{messages:,} messages wait in the queue").format(messages=waiting))
    if newer:
        yield Finding("note", later_sentence(newer), _("upgrade the workers"))
    yield from _lost(connection)
    if dead:
        yield Finding(
            "note",
            _("there are {letters:,} dead letters").format(letters=dead),
            _("see producer status and producer requeue"),
        )


def _lost(connection: Connection) -> Iterator[Finding]:
    """Yield the jobs whose messages have vanished; what is missing only now is counted.

    What a later job of the same images has sent again is lost no more.
    """
    jobs = _asked(connection.jobs.list) or []
    _asked(look_twice, connection.client, connection.jobs, jobs)
    sent_again = Counter[str]()
    for job in _asked(connection.jobs.list) or []:  # the newest first
        images = job.codes.get(MESSAGE_LOST, 0)
        again = min(images, sent_again[job.about])
        sent_again[job.about] += job.sent_again - again
        if images > again:
            yield Finding("note", lost_sentence(job.id, images - again))


def results_findings(settings: Settings) -> Iterator[Finding]:
    """Yield what is found of the Redis of the results, where it is one of its own."""
    url = settings.results
    if url == settings.broker_url:
        return
    with connect(url) as client:
        yield Finding("ok", _("Redis of the results at {url} answers").format(url=url))
        reason = refusal(client, result_commands(settings.keys))
        yield from _full(_asked(client.info, "memory") or {}, reason)
    if reason:
        todo = _todo(reason, "WANWU_RESULT_URL")
        yield Finding(
            "fail",
            _("Redis of the results answers, but refuses work: {reason}").format(reason=reason),
            todo,
        )


def _asked(ask: Callable[..., Any], *arguments: Any) -> Any:
    """Return the answer, or None where Redis refuses to give one: that is said elsewhere."""
    try:
        return ask(*arguments)
    except redis.ResponseError:
        return None


def _refusal(reason: str) -> Iterator[Finding]:
    """Yield why Redis takes no work at the moment, if it does not."""
    if reason:
        todo = _todo(reason, "WANWU_BROKER_URL")
        yield Finding(
            "fail", _("Redis answers, but refuses work: {reason}").format(reason=reason), todo
        )


def _todo(reason: str, variable: str) -> str:
    """Return what to do about a refusal of the Redis that a variable names; "" if it is unknown."""
    return _(_REFUSED.get(reason.partition(" ")[0], "")).format(variable=variable)


def _clock(client: redis.Redis) -> Iterator[Finding]:
    if (answer := _asked(client.time)) is None:
        return
    seconds, microseconds = answer
    apart_s = seconds + microseconds / 1e6 - time.time()
    if abs(apart_s) > _CLOCKS_S:
        message = _("the clocks of this machine and of Redis differ by {seconds:+.1f} s").format(
            seconds=apart_s
        )
        yield Finding(
            "note", message, _("times in the queue will be wrong: synchronise the clocks (NTP)")
        )


def _full(about: dict[str, Any], refused: str) -> Iterator[Finding]:
    """Yield that senders wait for memory, unless it is why a Redis has refused."""
    used, limit = memory_share(about)
    if limit and used > FULL_SHARE * limit and not refused.startswith(_OUT_OF_MEMORY):
        yield Finding("fail", full_sentence(round(100 * used / limit)), _("or raise maxmemory"))


def _keeping(client: Any, about: dict[str, Any]) -> Iterator[Finding]:
    """Yield what of the work Redis may lose by itself."""
    policy = about.get("maxmemory_policy", "noeviction")
    if about.get("maxmemory") and policy != "noeviction":
        message = _("Redis drops keys when its memory is full ({policy})").format(policy=policy)
        yield Finding(
            "fail", message, _("work would be lost: CONFIG SET maxmemory-policy noeviction")
        )
    kept = _asked(client.config_get, "appendonly")
    if kept is not None and kept.get("appendonly") != "yes":
        message = _("Redis keeps nothing on disk (appendonly no)")
        yield Finding("note", message, _("a restart loses the queue: CONFIG SET appendonly yes"))
