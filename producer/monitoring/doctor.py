"""What stands in the way of tagging -> findings for a person, each with what to do about it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import redis

from producer.backend.connection import (
    ONLINE_TIMEOUT_S,
    Connection,
    open_connection,
)
from producer.backend.queue_problems import full_sentence, later_sentence, lost_sentence
from producer.backend.workers import BrokerRefusesError, WorkerInfo, online
from producer.console.worker_command import start_worker
from worker.contract.cpus import usable_cpus
from worker.contract.extras import EXTRAS, incomplete, is_wanted, missing, remedy
from worker.contract.i18n import gettext as _
from worker.contract.i18n import gettext_noop as N_
from worker.contract.keys import Keys
from worker.contract.printable import printable
from worker.contract.queue.fair import FairQueue
from worker.contract.queue.job_messages import look_twice, newer_messages
from worker.contract.redis.connections import BrokerUnreachableError, connect, unreachable
from worker.contract.redis.key_types import wrong_type
from worker.contract.redis.memory import FULL_SHARE, memory_share
from worker.contract.redis.server_check import (
    ServerUnfitError,
    refusal,
    result_commands,
    write_commands,
)
from worker.contract.settings import Settings
from worker.contract.stores.dead_letters import DeadLetters
from worker.contract.stores.jobs import MESSAGE_LOST
from worker.contract.urls import is_url

_CLOCKS_S: Final = 2.0
_START: Final = N_(
    "start one (redis-server, or docker compose up redis), or name it: export "
    "WANWU_BROKER_URL=redis://..."
)
_WRONG_LOGIN: Final = N_(
    "put the right password into WANWU_BROKER_URL: redis://:PASSWORD@HOST:6379/0"
)
_OTHER: Final = N_("upgrade it, or name another in WANWU_BROKER_URL")
_LIMITS: Final = {"": "", "affinity": N_("affinity"), "cgroup quota": N_("cgroup quota")}
# By the code of what Redis says.
_REFUSED: Final = {
    "READONLY": N_("it is a replica: name the master in {variable}, or promote this one"),
    "OOM": N_(
        "its memory is full: producer results JOB --drop, and producer cancel JOB --drop, free "
        "what a job holds (producer status lists them); or raise maxmemory"
    ),
    "MISCONF": N_("it cannot write to its disk: make room there; its log says more"),
    "NOPERM": N_("its user lacks rights: ACL SETUSER"),
}


class Finding(NamedTuple):
    """Something that was looked at. With `fail`, nothing will be tagged until it is mended."""

    state: Literal["ok", "note", "fail"]
    what: str
    todo: str = ""


def examine(settings: Settings, paths: Sequence[str]) -> Iterator[Finding]:
    """Yield what is found, in the order in which images go."""
    yield from _installed()
    try:
        with open_connection(settings) as connection:
            yield from _broker(connection)
            yield from _results(settings)
            workers: Sequence[WorkerInfo] = ()
            try:
                workers = online(connection.app, ONLINE_TIMEOUT_S)
            except BrokerRefusesError:
                message = _("workers cannot be asked while Redis refuses work")
                yield Finding("note", message)
                # Who may fetch from a URL, nobody knows then.
                paths = [path for path in paths if not is_url(path)]
            else:
                yield from _workers(workers, settings, paths)
            for path in paths:
                yield _path(path, workers)
    except BrokerUnreachableError as e:
        wrong = isinstance(e.__cause__, redis.AuthenticationError)
        yield Finding("fail", str(e), _(_WRONG_LOGIN if wrong else _START))
    except ServerUnfitError as e:
        yield Finding("fail", str(e), _(_OTHER))
    except redis.RedisError as e:
        yield Finding("fail", str(unreachable(settings.broker_url, e)), _(_START))
    except ModuleNotFoundError as e:
        yield Finding("fail", *incomplete(e))


def _installed() -> Iterator[Finding]:
    wanted = [name for name in EXTRAS if is_wanted(name)]
    there = [name for name in wanted if not missing(name)]
    ours = version("wanwu-tagger")
    if there:
        what = _("wanwu-tagger {version} with {extras}").format(
            version=ours, extras=", ".join(there)
        )
    else:
        what = _("wanwu-tagger {version} without extras").format(version=ours)
    yield Finding("ok", what)
    if (cpus := usable_cpus()).limit:
        what = _("{usable} of {there} CPUs may be used here: {limit}").format(
            usable=cpus.usable, there=cpus.there, limit=_(_LIMITS[cpus.limit])
        )
        yield Finding("ok", what)
    for name in wanted:
        if lacking := missing(name):
            yield Finding(
                "note",
                _("the extra {name} lacks {modules}").format(name=name, modules=", ".join(lacking)),
                remedy(name),
            )


def _broker(connection: Connection) -> Iterator[Finding]:
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
        yield from _refusal(client, connection.keys)
        if odd := _asked(wrong_type, client, connection.keys):
            yield Finding("fail", str(odd))
        yield from _memory(client, about)
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
    """Yield the jobs whose messages have vanished; what is missing only now is counted."""
    jobs = _asked(connection.jobs.list) or []
    _asked(look_twice, connection.client, connection.jobs, jobs)
    for job in _asked(connection.jobs.list) or []:
        if images := job.codes.get(MESSAGE_LOST):
            yield Finding("note", lost_sentence(job.id, images))


def _results(settings: Settings) -> Iterator[Finding]:
    """Yield what is found of the Redis of the results, where it is one of its own."""
    url = settings.results
    if url == settings.broker_url:
        return
    with connect(url) as client:
        yield Finding("ok", _("Redis of the results at {url} answers").format(url=url))
        reason = refusal(client, result_commands(settings.keys))
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


def _refusal(client: redis.Redis, keys: Keys) -> Iterator[Finding]:
    """Yield why Redis takes no work at the moment, if it does not."""
    if reason := refusal(client, write_commands(keys)):
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


def _memory(client: Any, about: dict[str, Any]) -> Iterator[Finding]:
    used, limit = memory_share(about)
    if limit and used > FULL_SHARE * limit:
        yield Finding("note", full_sentence(round(100 * used / limit)), _("or raise maxmemory"))
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


def _workers(
    workers: Sequence[WorkerInfo], settings: Settings, paths: Sequence[str]
) -> Iterator[Finding]:
    if not workers:
        broker = settings.broker_url
        todo = start_worker(settings, paths)
        yield Finding("fail", _("no worker is online at {url}").format(url=broker), todo)
        return
    ours = version("wanwu-tagger")
    for one in workers:
        message = _("{name}: {model} on {device}, {precision}").format(
            name=one.name, model=one.model, device=one.device, precision=one.precision
        )
        if one.version and one.version != ours:
            yield Finding(
                "note",
                _("{worker}, version {version}").format(worker=message, version=one.version),
                _("this is {version}: upgrade one").format(version=ours),
            )
        else:
            yield Finding("ok", message)
    models = {one.model for one in workers}
    if len(models) > 1:
        message = _("workers hold different models: {models}").format(
            models=", ".join(sorted(models))
        )
        yield Finding("note", message, _("an image gets the tags of whichever worker takes it"))
    if notice := workers[0].notice:
        yield Finding("note", _(notice))
    if not all(one.has_labels for one in workers):
        yield Finding(
            "note", _("the model has no labels of its own"), _("give --labels FILE or --label")
        )


def _path(path: str, workers: Sequence[WorkerInfo]) -> Finding:
    shown = printable(path)
    if is_url(path):
        scheme = path.partition("://")[0]
        places = {place for one in workers for place in one.image_urls}
        if any(place == "*" or path.startswith(place) for place in places):
            return Finding("ok", _("{url}: workers may fetch from there").format(url=shown))
        todo = f"worker start --allow {scheme}://..."
        return Finding("fail", _("{url}: no worker may fetch from there").format(url=shown), todo)
    real = os.path.realpath(path)
    if not Path(real).exists():
        return Finding(
            "fail", _("{path}: there is no such file or directory here").format(path=shown)
        )
    if not workers:
        message = _(
            "{path}: it is there; only workers that are online can say whether they may read it"
        ).format(path=shown)
        return Finding("ok", message)
    blind = [one.name for one in workers if not _sees(one, real)]
    if blind:
        message = _("{path}: {workers} may not read there").format(
            path=shown, workers=", ".join(blind)
        )
        return Finding("fail", message, _("worker start --allow DIR, or submit with --blobs"))
    return Finding(
        "ok", _("{path}: the workers may read there, if they see the same files").format(path=shown)
    )


def _sees(worker: WorkerInfo, real: str) -> bool:
    roots = (os.path.realpath(root) for root in worker.image_roots)
    return any(os.path.commonpath([real, root]) == root for root in roots)
