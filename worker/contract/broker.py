"""Settings -> Celery app and Redis client, configured alike for producer and worker."""

from __future__ import annotations

from typing import Any, Final

import redis
from celery import Celery
from kombu import Queue
from kombu.transport import TRANSPORT_ALIASES
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from worker.contract.messages import APP_NAME, QUEUE, TASK
from worker.contract.settings import Settings, mask

CONNECT_TIMEOUT_S: Final = 3.0
# How often workers look for what dead ones hold, at most; and how many looks a lease outlasts.
_MOST_SECONDS_BETWEEN_LOOKS: Final = 10
LOOKS_A_LEASE: Final = 6
# By name: they are loaded when they are needed, not when a command starts.
_TRANSPORT: Final = "worker.contract.transport:Transport"
_RESULTS: Final = "worker.contract.results:ChunkResults"


class BrokerUnreachableError(ConnectionError):
    """Redis does not answer at the URL given, or refuses the password."""


def make_app(settings: Settings, *, stores_results: bool) -> Celery:
    """Return the Celery app. Only workers store results.

    A producer's app has no result backend: with one, every message sent would subscribe to a
    channel of its own. Producers read results by key instead (see `jobs.JobStore.collect`).
    """
    _lean_transport()
    app = Celery(
        APP_NAME,
        broker=settings.broker_url,
        backend=f"{_RESULTS}+{settings.results}" if stores_results else None,
        set_as_current=False,
    )
    app.conf.update(_common(settings))
    return app


def _lean_transport() -> None:
    """Let kombu use our form of its Redis transport in this process."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = _TRANSPORT


def _common(settings: Settings) -> dict[str, Any]:
    look_s = min(_MOST_SECONDS_BETWEEN_LOOKS, settings.visibility_timeout_s / LOOKS_A_LEASE)
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
        "worker_send_task_events": settings.events,
        "worker_prefetch_multiplier": 1,
        # Reserve no more than the pool runs: the rest is for the other workers.
        "worker_disable_prefetch": True,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "result_expires": settings.result_ttl_s,
        "result_backend_thread_safe": True,
        "enable_utc": True,
        "broker_connection_retry_on_startup": True,
        # Whoever is to end waits for nobody, and whoever is to work waits as long as it takes.
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            "visibility_timeout": settings.visibility_timeout_s,
            "unacked_restore_interval": look_s,
            "unacked_restore_throttle": 1,
            # Longer than a look takes: a worker that dies while it looks must not blind the others.
            "unacked_mutex_expire": _MOST_SECONDS_BETWEEN_LOOKS,
            # One list, from which messages can be moved in one step.
            "priority_steps": [0],
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
        },
    }


def connect(url: str, *, timeout_s: float | None = None) -> redis.Redis:
    """Return a client of the Redis at `url` that answered a ping.

    Raises:
        BrokerUnreachableError: one sentence, password masked, after at most `CONNECT_TIMEOUT_S`.
    """
    try:
        client = redis.Redis.from_url(
            url, socket_connect_timeout=CONNECT_TIMEOUT_S, socket_timeout=timeout_s
        )
        client.ping()
    except (redis.RedisError, OSError, ValueError) as e:
        raise BrokerUnreachableError(unreachable(url, e)) from e
    return client


def patient_client(url: str) -> redis.Redis:
    """Return a client that rides out a short absence of Redis: about half a minute."""
    return redis.Redis.from_url(
        url,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=patience(),
        retry_on_error=[redis.ConnectionError, redis.TimeoutError],
    )


def patience(*errors: type[Exception]) -> Retry:
    """Return what tries again for about half a minute after Redis' own errors, or also others."""
    return Retry(
        ExponentialWithJitterBackoff(base=0.05, cap=4.0),
        retries=12,
        supported_errors=(redis.ConnectionError, redis.TimeoutError, *errors),
    )


def unreachable(url: str, error: Exception) -> str:
    """Return the sentence for a Redis that cannot be reached or used."""
    reason = str(error).partition("\n")[0].rstrip(". ") or type(error).__name__
    return f"cannot reach Redis at {mask(url)}: {reason}"
