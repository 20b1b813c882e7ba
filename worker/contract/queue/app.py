"""Settings -> Celery app, configured alike for producer and worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from celery import Celery
from kombu import Queue

from worker.contract.keys import Keys
from worker.contract.messages import APP_NAME, QUEUE, TASK
from worker.contract.queue.url_numbers import URL_NUMBER, number_of
from worker.contract.redis.pools import IDLE_CHECK_S
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings

# Workers look for messages of dead ones at least this often, and so many times in a lease; as many
# times they renew their own leases.
_MAX_RESTORE_PAUSE_S: Final = 10
RENEWALS_PER_LEASE: Final = 6
# The option of our result backend: how many replicas must have a result.
REPLICAS: Final = "replicas"
# By name: they are loaded when they are needed, not when a command starts.
_TRANSPORT: Final = "worker.contract.queue.transport:Transport"
PREFIX_OPTION: Final = "global_keyprefix"
_RESULTS: Final = "worker.service.result_backend:ChunkResults"
_CONTROL: Final = "worker.contract.queue.control:OwnConnections"


def make_app(settings: Settings, *, stores_results: bool) -> Celery:
    """Return the Celery app. Only workers store results.

    A producer's app has no result backend: with one, every message sent would subscribe to a
    channel of its own. Producers read results by key instead (see `stores.jobs.JobStore.collect`).
    """
    app = Celery(
        APP_NAME,
        backend=f"{_RESULTS}+{_label(settings.results)}" if stores_results else None,
        control=_CONTROL,
        set_as_current=False,
    )
    app.conf.update(_common(settings))
    prefix = prefix_options(settings.keys)
    use_broker(app, settings.broker_url, prefix | _lease_options(settings))
    app.conf.result_backend_transport_options = prefix | {
        URL_NUMBER: number_of(settings.results),
        REPLICAS: settings.redis_wait_replicas,
    }
    return app


def prefix_options(keys: Keys) -> dict[str, Any]:
    """Return the option with which kombu and Celery name all that they have in Redis as `keys`."""
    return {PREFIX_OPTION: keys.prefix}


def keys_of(app: Celery) -> Keys:
    """Return the names that an app of `make_app` has in Redis."""
    return Keys(app.conf.broker_transport_options[PREFIX_OPTION])


def use_broker(app: Any, url: SecretUrl, options: Mapping[str, Any]) -> None:
    """Let an app reach its queue at `url`, by our subclass of kombu's Redis transport.

    What Celery and kombu know as the URL has no password: they log it, answer with it, and send it
    to Flower. Our transport finds the whole one by its number.
    """
    app.conf.broker_url = _label(url)
    # Of this app alone: another one in the same process has kombu's own.
    app.conf.broker_transport = _TRANSPORT
    app.conf.broker_transport_options = {
        URL_NUMBER: number_of(url),
        "health_check_interval": IDLE_CHECK_S,
        **options,
    }


def _label(url: SecretUrl) -> str:
    """Return a URL as it is shown; kombu takes what stands before a plus for another thing."""
    return str(url).replace("redis+socket://", "unix://", 1)


def _lease_options(settings: Settings) -> dict[str, Any]:
    """Return the options of our transport that say for how long a message is leased."""
    pause_s = min(_MAX_RESTORE_PAUSE_S, settings.visibility_timeout_s / RENEWALS_PER_LEASE)
    return {
        "visibility_timeout": settings.visibility_timeout_s,
        "unacked_restore_interval": pause_s,
        "unacked_restore_throttle": 1,
        # One list, from which messages can be moved in one step.
        "priority_steps": [0],
    }


def _common(settings: Settings) -> dict[str, Any]:
    return {
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "task_default_queue": QUEUE,
        "task_queues": (Queue(QUEUE),),
        "task_routes": {TASK: {"queue": QUEUE}},
        "task_create_missing_queues": False,
        "task_acks_late": True,
        # A chunk whose process died goes back to the queue; a message that is no chunk does not.
        "task_reject_on_worker_lost": True,
        "task_acks_on_failure_or_timeout": True,
        "task_send_sent_event": False,
        "worker_send_task_events": settings.task_events,
        "worker_prefetch_multiplier": 1,
        # Reserve no more than the pool runs: the rest is for the other workers.
        "worker_disable_prefetch": True,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "result_expires": settings.result_ttl_s,
        "result_backend_thread_safe": True,
        "enable_utc": True,
        "broker_connection_retry_on_startup": True,
        # A worker waits for Redis as long as it takes, unless it is asked to stop.
        "broker_connection_max_retries": None,
        # A Redis that refuses is waited for like one that is away: see `contract.redis.errors`.
        "broker_channel_error_retry": True,
    }
