"""What stands in the way of tagging -> findings for a person, each with what to do about it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import redis

from producer.backend.connection import ONLINE_TIMEOUT_S, Connection, open_connection
from producer.backend.workers import BrokerRefusesError, WorkerInfo, online
from producer.console.paths import printable
from producer.console.worker_command import start_worker
from producer.sources.stores import is_url
from worker.contract.extras import EXTRAS, incomplete, is_wanted, missing, remedy
from worker.contract.messages import QUEUE
from worker.contract.redis.connections import BrokerUnreachableError, connect, unreachable
from worker.contract.redis.server_check import RESULTS, ServerUnfitError, refusal
from worker.contract.settings import Settings
from worker.contract.stores.dead_letters import DeadLetters

_CLOCKS_S: Final = 2.0
_START: Final = (
    "start one (redis-server, or docker compose up redis), or name it: export "
    "WANWU_BROKER_URL=redis://..."
)
_WRONG_LOGIN: Final = "put the right password into WANWU_BROKER_URL: redis://:PASSWORD@HOST:6379/0"
_OTHER: Final = "upgrade it, or name another in WANWU_BROKER_URL"
# By the code of what Redis says.
_REFUSED: Final = {
    "READONLY": "it is a replica: name the master in WANWU_BROKER_URL, or promote this one",
    "OOM": "its memory is full: raise maxmemory, or fetch results and let them go",
    "MISCONF": "it cannot write to its disk: make room there; its log says more",
    "NOPERM": "its user lacks rights: ACL SETUSER",
}


class Finding(NamedTuple):
    """Something that was looked at. With `bad`, nothing will be tagged until it is mended."""

    state: Literal["ok", "note", "bad"]
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
                words = "whether workers are online cannot be asked while Redis refuses work"
                yield Finding("note", words)
                # Who may fetch from a URL, nobody knows then.
                paths = [path for path in paths if not is_url(path)]
            else:
                yield from _workers(workers, settings, paths)
            for path in paths:
                yield _path(path, workers)
    except BrokerUnreachableError as e:
        wrong = isinstance(e.__cause__, redis.AuthenticationError)
        yield Finding("bad", str(e), _WRONG_LOGIN if wrong else _START)
    except ServerUnfitError as e:
        yield Finding("bad", str(e), _OTHER)
    except redis.RedisError as e:
        yield Finding("bad", unreachable(settings.broker_url, e), _START)
    except ModuleNotFoundError as e:
        yield Finding("bad", *incomplete(e))


def _installed() -> Iterator[Finding]:
    wanted = [name for name in EXTRAS if is_wanted(name)]
    there = [name for name in wanted if not missing(name)]
    extras = f"with {', '.join(there)}" if there else "without extras"
    yield Finding("ok", f"wanwu-tagger {version('wanwu-tagger')} {extras}")
    for name in wanted:
        if lacking := missing(name):
            yield Finding("note", f"the extra {name} lacks {', '.join(lacking)}", remedy(name))


def _broker(connection: Connection) -> Iterator[Finding]:
    """Yield what is found of Redis, which is asked but once: who looks does not wait for it."""
    url = connection.settings.broker_url
    with connect(url) as client:
        began_s = time.monotonic()
        about: dict[str, Any] = _asked(client.info) or {}
        took_ms = (time.monotonic() - began_s) * 1000
        server = str(about.get("redis_version", "of a version that it does not tell"))
        yield Finding("ok", f"Redis {server} at {url} answers in {took_ms:.1f} ms")
        yield from _refusal(client)
        yield from _memory(client, about)
        yield from _clock(client)
        waiting, dead = _asked(client.llen, QUEUE), _asked(DeadLetters(client).count)
    if waiting is not None:
        yield Finding("ok", f"{waiting:,} messages wait in the queue")
    if dead:
        yield Finding(
            "note", f"{dead:,} messages or images were given up", "see producer status, requeue"
        )


def _results(settings: Settings) -> Iterator[Finding]:
    """Yield what is found of the Redis of the results, where it is one of its own."""
    url = settings.results
    if url == settings.broker_url:
        return
    with connect(url) as client:
        yield Finding("ok", f"Redis of the results at {url} answers")
        reason = refusal(client, RESULTS)
    if reason:
        todo = _REFUSED.get(reason.partition(" ")[0], "").replace(
            "WANWU_BROKER_URL", "WANWU_RESULT_URL"
        )
        yield Finding("bad", f"Redis of the results answers, but refuses work: {reason}", todo)


def _asked(question: Callable[..., Any], *words: Any) -> Any:
    """Return the answer, or None where Redis refuses to give one: that is told elsewhere."""
    try:
        return question(*words)
    except redis.ResponseError:
        return None


def _refusal(client: redis.Redis) -> Iterator[Finding]:
    """Yield why Redis takes no work at the moment, if it does not."""
    if reason := refusal(client):
        todo = _REFUSED.get(reason.partition(" ")[0], "")
        yield Finding("bad", f"Redis answers, but refuses work: {reason}", todo)


def _clock(client: redis.Redis) -> Iterator[Finding]:
    if (answer := _asked(client.time)) is None:
        return
    seconds, microseconds = answer
    apart_s = seconds + microseconds / 1e6 - time.time()
    if abs(apart_s) > _CLOCKS_S:
        words = f"this clock and Redis' differ by {apart_s:+.1f} s"
        yield Finding("note", words, "times in the queue will be wrong: synchronise them (NTP)")


def _memory(client: Any, about: dict[str, Any]) -> Iterator[Finding]:
    policy = about.get("maxmemory_policy", "noeviction")
    if about.get("maxmemory") and policy != "noeviction":
        words = f"Redis drops keys when its memory is full ({policy})"
        yield Finding("bad", words, "work would be lost: CONFIG SET maxmemory-policy noeviction")
    kept = _asked(client.config_get, "appendonly")
    if kept is not None and kept.get("appendonly") != "yes":
        words = "Redis keeps nothing on disk (appendonly no)"
        yield Finding("note", words, "a restart loses the queue: CONFIG SET appendonly yes")


def _workers(
    workers: Sequence[WorkerInfo], settings: Settings, paths: Sequence[str]
) -> Iterator[Finding]:
    if not workers:
        broker = settings.broker_url
        todo = start_worker(settings, paths)
        yield Finding("bad", f"no worker is online at {broker}", todo)
        return
    ours = version("wanwu-tagger")
    for one in workers:
        told = f"{one.name}: {one.model} on {one.device}, {one.precision}"
        if one.version and one.version != ours:
            yield Finding("note", f"{told}, version {one.version}", f"this is {ours}: upgrade one")
        else:
            yield Finding("ok", told)
    models = {one.model for one in workers}
    if len(models) > 1:
        words = f"workers hold different models: {', '.join(sorted(models))}"
        yield Finding("note", words, "images get tags of whichever takes them")
    if notice := workers[0].notice:
        yield Finding("note", notice)
    if not all(one.has_labels for one in workers):
        yield Finding("note", "the model has no labels of its own", "give --labels FILE or --label")


def _path(path: str, workers: Sequence[WorkerInfo]) -> Finding:
    shown = printable(path)
    if is_url(path):
        scheme = path.partition("://")[0]
        places = {place for one in workers for place in one.image_urls}
        if any(place == "*" or path.startswith(place) for place in places):
            return Finding("ok", f"{shown}: workers may fetch from there")
        todo = f"worker start --images {scheme}://..."
        return Finding("bad", f"{shown}: no worker may fetch from there", todo)
    real = os.path.realpath(path)
    if not Path(real).exists():
        return Finding("bad", f"{shown}: there is no such file or directory here")
    if not workers:
        words = f"{shown}: it is there; whether workers may read it, they say themselves"
        return Finding("ok", words)
    blind = [one.name for one in workers if not _sees(one, real)]
    if blind:
        words = f"{shown}: {', '.join(blind)} may not read there"
        return Finding("bad", words, "worker start --images DIR, or submit with --blobs")
    return Finding("ok", f"{shown}: within what the workers may read, if it is there for them too")


def _sees(worker: WorkerInfo, real: str) -> bool:
    roots = (os.path.realpath(root) for root in worker.image_roots)
    return any(os.path.commonpath([real, root]) == root for root in roots)
