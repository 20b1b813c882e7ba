"""The backlog of a queue, over all jobs and workers, for Prometheus: one exporter a Redis."""

from __future__ import annotations

import base64
import threading
import time
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import redis
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from producer.report import state_of
from worker.contract.messages import QUEUE
from worker.contract.transport import TAKEN
from worker.contract.wire import decode

if TYPE_CHECKING:
    from producer.desk import Desk

_STATES: Final = ("submitting", "submitted", "interrupted", "cancelled", "finished")
_UNACKED: Final = "unacked"


class Backlog(Collector):
    """Looks into Redis whenever Prometheus asks."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def collect(self) -> Iterable[Metric]:
        """Yield the figures; if Redis is away, that alone."""
        try:
            found = list(self._look())
        except (redis.RedisError, OSError):
            yield _up(value=False)
            return
        yield _up(value=True)
        yield from found

    def _look(self) -> Iterable[Metric]:
        jobs, client = self._desk.jobs.list(), self._desk.client
        yield GaugeMetricFamily(
            "wanwu_backlog_images",
            "Images submitted that have no result yet, over all jobs.",
            value=sum(job.outstanding for job in jobs),
        )
        counts = Counter(map(state_of, jobs))
        by_state = GaugeMetricFamily("wanwu_jobs", "Jobs that are remembered.", labels=("state",))
        for state in _STATES:
            by_state.add_metric((state,), counts[state])
        yield by_state
        messages = GaugeMetricFamily(
            "wanwu_messages", "Chunks in Redis, by whether a worker has them.", labels=("where",)
        )
        messages.add_metric(("waiting",), client.llen(QUEUE))
        messages.add_metric(("in_workers",), client.hlen(_UNACKED) + client.llen(TAKEN))
        yield messages
        yield GaugeMetricFamily(
            "wanwu_oldest_waiting_seconds",
            "Since when the next chunk of the queue has waited; 0 if none waits.",
            value=_age_s(client.lindex(QUEUE, -1)),
        )
        yield GaugeMetricFamily(
            "wanwu_dead_letters", "What was given up.", value=self._desk.dead.count()
        )


def serve(desk: Desk, address: str, port: int) -> None:
    """Answer `GET /metrics` until somebody interrupts.

    Raises:
        OSError: the port cannot be used.
    """
    registry = CollectorRegistry()
    registry.register(Backlog(desk))
    start_http_server(port, address, registry)
    threading.Event().wait()


def _up(*, value: bool) -> Metric:
    return GaugeMetricFamily("wanwu_redis_up", "1 if Redis answers.", value=value)


def _age_s(raw: Any) -> float:
    try:
        body = decode(base64.b64decode(decode(raw)["body"]))
        return max(0.0, time.time() - float(body[0][0]["sent_at_s"]))
    except (ValueError, LookupError, TypeError):
        # None waits, or what waits is no message of ours: workers will say so.
        return 0.0
