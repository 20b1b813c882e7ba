"""Settings -> Celery app whose worker loads the model before it takes a task.

`worker start` calls `serve`; `celery -A worker.app:app worker --pool threads` finds `app`
here, built from the environment when it is first asked for.
"""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Final

import msgspec
import structlog
from celery import Celery, bootsteps
from celery.exceptions import SecurityWarning, WorkerShutdown
from celery.signals import setup_logging, worker_ready, worker_shutdown, worker_shutting_down

from worker.artifact.manifest import Artifact
from worker.contract.cpus import usable_cpus
from worker.contract.queue.app import RENEWALS_PER_LEASE, make_app
from worker.contract.settings import Settings
from worker.contract.worker_info import STATS_KEY
from worker.engines.base import Engine, model_threads, resolve_device
from worker.engines.choose import open_engine
from worker.engines.tuned_batch import tuned
from worker.errors import TaggerError
from worker.export.on_first_use import open_model
from worker.images.isolated.fork_server import fork_early
from worker.monitoring import logs
from worker.monitoring.http import Sources, answering
from worker.monitoring.prometheus import metrics_of
from worker.service.bootsteps import Services, consumer_steps
from worker.service.control import ControlNode, hide_secrets
from worker.service.label_checks import answers_label_checks
from worker.service.legacy import legacy_queue
from worker.service.reconnect import reconnecting
from worker.service.startup_check import check_early, check_once, explain
from worker.service.tagger import Tagger
from worker.service.task import register
from worker.service.text_embeddings import answers_texts

LoadEngine = Callable[[Artifact, Settings], Engine]

log = structlog.get_logger()


def build(settings: Settings) -> Celery:
    """Return the app with its task and the step that loads the model.

    Raises:
        ArtifactError: the model is missing or not what its manifest says.
    """
    settings, artifact = _opened(settings)
    return _build(settings, Tagger(settings, artifact, node_name(), open_engine))


def _opened(settings: Settings) -> tuple[Settings, Artifact]:
    """Return the model, and the settings with the batch size that was found best for it."""
    artifact = open_model(settings, lambda step: log.info("model.export", step=step))
    return tuned(settings, artifact), artifact


def _build(settings: Settings, tagger: Tagger) -> Celery:
    app = make_app(settings, stores_results=True)
    app.conf.update(
        worker_pool="threads",
        worker_concurrency=settings.most_chunks,
        worker_consumer=reconnecting(
            tagger.redis_contact,
            check_once(settings, tagger.refuse),
            partial(explain, settings),
        ),
    )
    app.control.mailbox.node_cls = ControlNode
    hide_secrets()
    register(app, tagger)
    answers_texts(tagger.pipeline.label_set, tagger.pipeline.artifact)
    answers_label_checks(tagger.pipeline.check_labels)
    app.steps["worker"].add(type("Model", (ModelStep,), {"tagger": tagger}))
    for step in consumer_steps(_services(settings, tagger)):
        app.steps["consumer"].add(step)
    # Not the step's `stop`: it is called while tasks still run, and they need the batcher.
    worker_shutdown.connect(lambda **_: tagger.stop(), weak=False)
    worker_ready.connect(lambda **_: _log_ready(settings), weak=False)
    setup_logging.connect(lambda **_: logs.configure(settings.log_level), weak=False)
    return app


def _services(settings: Settings, tagger: Tagger) -> Services:
    pipeline = tagger.pipeline
    return Services(
        capacity=pipeline.capacity,
        chunks=settings.concurrency,
        redis_contact=tagger.redis_contact,
        set_latency_mode=pipeline.set_latency_mode,
        is_healthy=lambda: pipeline.problem() is None,
        lease_pause_s=settings.visibility_timeout_s / RENEWALS_PER_LEASE,
        legacy=legacy_queue(settings),
    )


def serve(settings: Settings, load_engine: LoadEngine = open_engine) -> int:
    """Run a worker until it is asked to stop; return its exit code.

    Its model runs in the engine that `load_engine` returns. A stop that somebody asked for is a
    success, by Ctrl-C too, which Celery calls a failure. One that the worker asked for itself,
    because it can infer no more, is a failure.

    Raises:
        TaggerError: Redis, the model, the device or the engine cannot be used.
    """
    warnings.simplefilter("ignore", SecurityWarning)  # `_log_ready` says it more briefly.
    logs.configure(settings.log_level)
    if settings.decoder != "threads":
        fork_early()
    # A Redis that is away is waited for; a device that is not here would be in vain.
    resolve_device(settings.device, settings.precision)
    check_early(settings)
    settings, artifact = _opened(settings)
    tagger, stops = Tagger(settings, artifact, node_name(), load_engine), list[str]()
    worker_shutting_down.connect(lambda sig, **_: stops.append(sig), weak=False)
    worker = _build(settings, tagger).Worker(
        hostname=node_name(),
        pool="threads",
        concurrency=settings.most_chunks,
        loglevel=settings.log_level.upper(),
        quiet=True,
        without_gossip=True,
        without_mingle=True,
    )
    _log_threads(settings)
    metrics = metrics_of(tagger.pipeline, tagger.problem)
    with answering(settings, Sources(tagger.problem, tagger.fatal_problem, metrics)):
        worker.start()
    if tagger.refusal is not None:
        raise tagger.refusal
    if tagger.pipeline.died:
        return os.EX_SOFTWARE
    return os.EX_OK if stops else int(worker.exitcode or os.EX_OK)


def node_name() -> str:
    """Return this process's name among workers; several may run on one host."""
    return f"worker-{os.getpid()}@{socket.gethostname()}"


class ModelStep(bootsteps.StartStopStep):
    """Holds tasks back until the model of `tagger` is warm."""

    requires: Final = {"celery.worker.components:Pool"}
    tagger: ClassVar[Tagger]

    def start(self, parent: Any) -> None:
        """Load the model; end the worker if it cannot be used."""
        # Made now: else each thread of the pool makes one when the first chunks come, 0.1 s each.
        _ = parent.app.backend
        try:
            self.tagger.start()
        except TaggerError as e:
            # Celery would log a traceback; this is for a person, and `serve` passes it on.
            log.critical("model.refused", reason=str(e))
            self.tagger.refuse(e)
            raise WorkerShutdown(os.EX_CONFIG) from e

    def info(self, parent: Any) -> dict[str, Any]:  # noqa: ARG002
        """Return what `inspect stats` and Flower show."""
        info = msgspec.structs.replace(self.tagger.pipeline.info(), problem=self.tagger.problem())
        return {STATS_KEY: msgspec.to_builtins(info)}


def _log_threads(settings: Settings) -> None:
    cpus = usable_cpus()
    log.info(
        "worker.threads",
        model=model_threads(settings),
        decode=settings.decoders,
        cpus=f"{cpus.usable} of {cpus.there}",
        limit=cpus.limit or "none",
    )


def _log_ready(settings: Settings) -> None:
    if not settings.image_roots and not settings.image_urls:
        log.warning("worker.reads_no_files", advice="worker start --allow DIR", reads="blobs")
    if os.geteuid() == 0:
        # Celery says so at length, before there is a log.
        log.warning("worker.as_root", advice="images of strangers are decoded: use another user")
    log.info("worker.ready", name=node_name(), broker=str(settings.broker_url))


def __getattr__(name: str) -> Celery:
    """Build `app` from the environment when Celery asks for it, not on import."""
    if name != "app":
        raise AttributeError(name)
    app = globals()["app"] = build(Settings.from_env())
    return app
