"""A worker's figures -> Prometheus' text format, gathered when they are asked for.

Names and units follow Prometheus: base units, `_total` for counters. Nothing is counted here: what
the pipeline counts costs the same whether anybody asks or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from worker.contract.printable import printable
from worker.contract.worker_info import WorkerInfo
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.stats import BOUNDS_S

_BATCH_BOUNDS: Final = (1, 2, 3, 4, 8, 16, 32, 64)
_INFINITY: Final = "+Inf"


def metrics_of(pipeline: Pipeline, problem: Callable[[], str | None]) -> Callable[[], bytes]:
    """Return what renders the metrics of a pipeline, and of this process, at the moment.

    `problem` returns why the worker is not healthy, or None.
    """
    registry = CollectorRegistry()
    registry.register(_Figures(pipeline, problem))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return lambda: generate_latest(registry)


class _Figures(Collector):
    """Reads the pipeline."""

    def __init__(self, pipeline: Pipeline, problem: Callable[[], str | None]) -> None:
        self._pipeline = pipeline
        self._problem = problem

    def collect(self) -> Iterable[Metric]:
        """Yield all families; before the model is warm only what does not need it."""
        pipeline = self._pipeline
        problem = self._problem()
        yield GaugeMetricFamily(
            "wanwu_worker_healthy",
            "1 if the worker is healthy, as /healthz says.",
            value=not problem,
        )
        yield from _images(pipeline)
        if pipeline.is_started:
            info = pipeline.info()
            yield from _model(info)
            yield from _batches(info)
            yield from _device(info)


def _images(pipeline: Pipeline) -> Iterable[Metric]:
    images = CounterMetricFamily(
        "wanwu_images", "Images done, by status and failure code.", labels=("status", "code")
    )
    for code, count in ({"": 0} | pipeline.figures.codes()).items():
        images.add_metric(("failed" if code else "ok", printable(code)), count)
    yield images
    stages = HistogramMetricFamily(
        "wanwu_stage_seconds", "Time that images spent in each stage.", labels=("stage",)
    )
    for stage, (counts, sum_s) in pipeline.figures.stages().items():
        stages.add_metric((stage,), _buckets(BOUNDS_S, counts), sum_s)
    yield stages
    yield GaugeMetricFamily(
        "wanwu_last_image_timestamp_seconds",
        "When the last image was done, since the epoch; 0 if none was.",
        value=pipeline.figures.last_at_s,
    )
    held = GaugeMetricFamily(
        "wanwu_images_in_worker", "Images that the worker holds, by where.", labels=("where",)
    )
    for where, count in pipeline.depths().items():
        held.add_metric((where,), count)
    yield held


def _model(info: WorkerInfo) -> Iterable[Metric]:
    model = InfoMetricFamily("wanwu_model", "What the worker runs, and where.")
    names = ("model", "device", "precision", "engine")
    model.add_metric((), {name: printable(str(getattr(info, name))) for name in names})
    yield model
    yield CounterMetricFamily(
        "wanwu_engine_fallbacks",
        "Times that eager took over from an engine that failed.",
        value=info.fallbacks,
    )
    yield CounterMetricFamily(
        "wanwu_out_of_memory",
        "Batches that did not fit into the device's memory and were halved.",
        value=info.out_of_memory,
    )
    yield CounterMetricFamily(
        "wanwu_embedding_cache_hits",
        "Images whose embedding was in the cache, so that they were not inferred again.",
        value=info.cache_hits,
    )
    yield CounterMetricFamily(
        "wanwu_decode_timeouts",
        "Images that took longer to decode than is allowed.",
        value=info.decode_timeouts,
    )
    yield CounterMetricFamily(
        "wanwu_decoder_crashes",
        "Decode processes that ended, or were ended from outside, with an image in hand.",
        value=info.decoder_crashes,
    )
    yield GaugeMetricFamily(
        "wanwu_max_batch_images",
        "Images of the largest batch, at present.",
        value=info.max_batch,
    )


def _batches(info: WorkerInfo) -> Iterable[Metric]:
    sizes = {int(size): count for size, count in info.batch_sizes.items()}
    bounds = [str(bound) for bound in _BATCH_BOUNDS]
    below = [
        sum(count for size, count in sizes.items() if size <= bound) for bound in _BATCH_BOUNDS
    ]
    batches = HistogramMetricFamily("wanwu_batch_images", "Images of each batch that was run.")
    buckets = [*zip(bounds, below, strict=True), (_INFINITY, sum(sizes.values()))]
    batches.add_metric((), buckets, sum(size * count for size, count in sizes.items()))
    yield batches


def _device(info: WorkerInfo) -> Iterable[Metric]:
    device, memory = info.device, info.device_memory
    if memory:
        used = GaugeMetricFamily(
            "wanwu_gpu_memory_bytes", "Memory of the GPU, by kind.", labels=("device", "kind")
        )
        for kind, amount in memory.items():
            used.add_metric((device, kind), amount)
        yield used
    if info.device_utilisation is not None:
        busy = GaugeMetricFamily(
            "wanwu_gpu_utilization_ratio", "Share of time in which it computed.", labels=("device",)
        )
        busy.add_metric((device,), info.device_utilisation)
        yield busy


def _buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    names = [*map(str, bounds), _INFINITY]
    return list(zip(names, accumulate(counts), strict=True))
