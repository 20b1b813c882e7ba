"""What stands in the way of tagging -> findings for a person, each with what to do about it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

import redis

from producer.backend.connection import (
    ONLINE_TIMEOUT_S,
    open_connection,
)
from producer.backend.workers import BrokerRefusesError, WorkerInfo, online
from producer.console.worker_command import may_read, start_worker
from producer.monitoring.doctor_redis import (
    OTHER,
    START,
    redis_findings,
    results_findings,
    rights_todo,
    unreachable_todo,
)
from producer.monitoring.finding import Finding
from worker.contract.cpus import usable_cpus
from worker.contract.extras import EXTRAS, incomplete, is_wanted, missing, remedy
from worker.contract.i18n import gettext as _
from worker.contract.i18n import gettext_noop as N_
from worker.contract.printable import printable
from worker.contract.redis.connections import BrokerUnreachableError, unreachable
from worker.contract.redis.rights import RightsError, ServerUnfitError
from worker.contract.settings import Settings
from worker.contract.urls import is_url

_LIMITS: Final = {"": "", "affinity": N_("affinity"), "cgroup quota": N_("cgroup quota")}


def examine(settings: Settings, paths: Sequence[str]) -> Iterator[Finding]:
    """Yield what is found, in the order in which images go."""
    yield from _installed()
    try:
        with open_connection(settings) as connection:
            yield from redis_findings(connection)
            yield from results_findings(settings)
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
                yield _path(path, workers, settings)
    except BrokerUnreachableError as e:
        yield Finding("fail", str(e), _(unreachable_todo(e.__cause__)))
    except RightsError as e:
        yield Finding("fail", str(e), rights_todo(settings, e))
    except ServerUnfitError as e:
        yield Finding("fail", str(e), _(OTHER))
    except redis.RedisError as e:
        yield Finding("fail", str(unreachable(settings.broker_url, e)), _(START))
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
    yield from _labels(workers)


def _labels(workers: Sequence[WorkerInfo]) -> Iterator[Finding]:
    """Yield what a job without labels gets, if that is not the model's own."""
    without = [one for one in workers if not one.has_labels]
    if not all(one.vocabulary for one in without):
        yield Finding(
            "note", _("the model has no labels of its own"), _("give --labels FILE or --label")
        )
    elif without:
        message = _(
            "the model has no labels of its own: jobs without labels get the vocabulary "
            "{vocabulary} ({count:,} labels)"
        ).format(vocabulary=without[0].vocabulary, count=without[0].vocabulary_labels)
        yield Finding("note", message, _("give --labels FILE or --label for others"))


def _path(path: str, workers: Sequence[WorkerInfo], settings: Settings) -> Finding:
    shown = printable(path)
    if is_url(path):
        return _url(path, workers, start_worker(settings, [path]))
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
        todo = _("worker start --allow DIR, or submit with --blobs")
        return Finding("fail", _blind(shown, blind), todo)
    return Finding(
        "ok", _("{path}: the workers may read there, if they see the same files").format(path=shown)
    )


def _url(url: str, workers: Sequence[WorkerInfo], todo: str) -> Finding:
    shown, blind = printable(url), [one.name for one in workers if not may_read(one, url)]
    if len(blind) == len(workers):
        return Finding("fail", _("{url}: no worker may fetch from there").format(url=shown), todo)
    if blind:  # Any worker may take any image.
        return Finding("fail", _blind(shown, blind), todo)
    return Finding("ok", _("{url}: workers may fetch from there").format(url=shown))


def _blind(shown: str, workers: Sequence[str]) -> str:
    return _("{path}: {workers} may not read there").format(path=shown, workers=", ".join(workers))


def _sees(worker: WorkerInfo, real: str) -> bool:
    roots = (os.path.realpath(root) for root in worker.image_roots)
    return any(os.path.commonpath([real, root]) == root for root in roots)
