"""The backlog of a queue, over all jobs and workers, for Prometheus: one exporter a Redis."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

import redis
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from producer.backend.ports import PortError, reason
from producer.monitoring.queue_stats import look

if TYPE_CHECKING:
    from producer.backend.connection import Connection

_STATES: Final = ("submitting", "submitted", "interrupted", "cancelled", "finished")


class Exporter(Collector):
    """Looks into Redis whenever Prometheus asks."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def collect(self) -> Iterable[Metric]:
        """Yield the figures; if Redis is away, that alone."""
        try:
            at = self._connection
            found = look(at.client, at.keys, at.jobs, at.dead)
        except (redis.RedisError, OSError):
            yield _up(value=False)
            return
        yield _up(value=True)
        yield GaugeMetricFamily(
            "wanwu_backlog_images",
            "Images submitted that have no result yet, over all jobs.",
            value=found.images,
        )
        states = GaugeMetricFamily("wanwu_jobs", "Jobs that are remembered.", labels=("state",))
        for state in _STATES:
            states.add_metric((state,), found.states.get(state, 0))
        yield states
        messages = GaugeMetricFamily(
            "wanwu_messages", "Chunks in Redis, by whether a worker has them.", labels=("where",)
        )
        messages.add_metric(("waiting",), found.waiting)
        messages.add_metric(("in_workers",), found.in_workers)
        messages.add_metric(("for_later_workers",), found.newer)
        yield messages
        yield GaugeMetricFamily(
            "wanwu_oldest_waiting_seconds",
            "Since when the next chunk of the queue has waited; 0 if none waits.",
            value=found.oldest_s,
        )
        yield GaugeMetricFamily(
            "wanwu_redis_memory_ratio",
            "Share of Redis' memory in use, if it refuses to write beyond; else 0.",
            value=found.memory,
        )
        yield GaugeMetricFamily("wanwu_dead_letters", "Dead letters.", value=found.dead_letters)


def serve(connection: Connection, address: str, port: int, on_ready: Callable[[], None]) -> None:
    """Answer `GET /metrics` until somebody interrupts; `on_ready` is called when it does.

    Raises:
        PortError: the port cannot be used.
    """
    registry = CollectorRegistry()
    registry.register(Exporter(connection))
    try:
        start_http_server(port, address, registry)
    except (OSError, OverflowError, UnicodeError) as e:
        raise PortError(reason(address, port, e)) from e
    on_ready()
    threading.Event().wait()


def _up(*, value: bool) -> Metric:
    return GaugeMetricFamily("wanwu_redis_up", "1 if Redis answers.", value=value)
