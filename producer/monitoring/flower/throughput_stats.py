"""Looks at the queue and events of workers -> images a second, time left, and who does how much."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from producer.monitoring.queue_stats import QueueStats

PERIOD_S: Final = 2.0
# What is kept to be drawn.
KEPT_S: Final = 600.0
# Rates are means over so long: some chunks of a slow worker, and still "now".
WINDOW_S: Final = 10.0
STAGES: Final = ("read", "decode", "batch_wait", "infer")

Clock = Callable[[], float]


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """How it stood once. `ago_s` is how long ago; the rate is None until two looks are there."""

    ago_s: float
    backlog_images: int
    oldest_s: float
    images_per_s: float | None


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker reported. `images` is since Flower listens; rates and means are of now.

    `batch` is the mean size of the batches, `stages_ms` the mean of each stage; None or empty if
    no image was done in the last `WINDOW_S`. `silent_s` is how long it has reported nothing.
    """

    worker: str
    device: str
    model: str
    images: int
    failed: int
    images_per_s: float
    batch: float | None
    stages_ms: Mapping[str, float]
    silent_s: float


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What the page shows. `left_s` is None when there is nothing to do, or no telling.

    `redis_up` is False when the last look failed: the figures are those before.
    """

    redis_up: bool
    backlog_images: int = 0
    chunks_waiting: int = 0
    chunks_in_workers: int = 0
    oldest_s: float = 0.0
    dead_letters: int = 0
    images_per_s: float | None = None
    left_s: float | None = None
    workers: tuple[Share, ...] = ()
    moments: tuple[Moment, ...] = ()


class _Sample(msgspec.Struct, frozen=True):
    """Running sums at one moment: whoever wants a rate takes differences."""

    at_s: float
    backlog: QueueStats
    done: int
    sums: Mapping[str, Mapping[str, float]]


class Throughput:
    """Remembers the last ten minutes. Events and looks come from threads of their own."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._samples: deque[_Sample] = deque()
        self._sums: dict[str, Counter[str]] = {}
        self._known: dict[str, dict[str, Any]] = {}
        self._redis_up = False

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Take in what a worker reported: of a chunk that is done, or just that it lives."""
        worker = event.get("hostname")
        if not isinstance(worker, str) or event.get("type") == "worker-offline":
            return
        with self._lock:
            known = self._known.setdefault(worker, {})
            known["heard_s"] = self._clock()
            if event.get("type") != "task-succeeded" or not isinstance(event.get("images"), int):
                return
            known |= {name: str(event[name]) for name in ("device", "model") if event.get(name)}
            self._sums.setdefault(worker, Counter()).update(_sums(event))

    def look(self, backlog: QueueStats | None) -> None:
        """Remember how the queue stands now; None if Redis did not tell."""
        now_s = self._clock()
        with self._lock:
            self._redis_up = backlog is not None
            if backlog is None:
                return
            copied = {worker: dict(sums) for worker, sums in self._sums.items()}
            done = 0
            if self._samples:
                last = self._samples[-1]
                # A job that nobody knew has come meanwhile, with all that it has done.
                done = last.done + sum(
                    max(0, n - last.backlog.done.get(job, 0)) for job, n in backlog.done.items()
                )
            self._samples.append(_Sample(now_s, backlog, done, copied))
            while now_s - self._samples[0].at_s > KEPT_S:
                self._samples.popleft()
            for worker in [w for w, of in self._known.items() if now_s - of["heard_s"] > KEPT_S]:
                del self._known[worker]
                self._sums.pop(worker, None)

    def view(self) -> View:
        """Return all that there is to show."""
        now_s = self._clock()
        with self._lock:
            samples, redis_up = list(self._samples), self._redis_up
            known = {worker: dict(of) for worker, of in self._known.items()}
        if not samples:
            return View(redis_up=redis_up)
        starts = [_before(samples, n) for n in range(len(samples))]
        rates = list(map(_rate, starts, samples))
        last, backlog, rate = samples[-1], samples[-1].backlog, rates[-1]
        return View(
            redis_up=redis_up,
            backlog_images=backlog.images,
            chunks_waiting=backlog.waiting,
            chunks_in_workers=backlog.in_workers,
            oldest_s=backlog.oldest_s,
            dead_letters=backlog.dead_letters,
            images_per_s=rate,
            left_s=backlog.images / rate if backlog.images and rate else None,
            workers=tuple(
                _share(worker, of, last, starts[-1], now_s) for worker, of in sorted(known.items())
            ),
            moments=tuple(
                Moment(
                    ago_s=now_s - one.at_s,
                    backlog_images=one.backlog.images,
                    oldest_s=one.backlog.oldest_s,
                    images_per_s=rate,
                )
                for one, rate in zip(samples, rates, strict=True)
            ),
        )


def _sums(event: Mapping[str, Any]) -> dict[str, float]:
    """Return what adds up of a chunk's event: means become sums over its images."""
    images, failed = event["images"], event.get("failed_images") or 0
    sums: dict[str, float] = {"images": images, "failed": failed}
    for name in ("batch", *(f"{stage}_ms" for stage in STAGES)):
        mean = event.get(name)
        if isinstance(mean, int | float):
            # Failed images may not have come so far: the mean is of those that did.
            sums[name] = mean * images
            sums[f"{name}:of"] = images
    return sums


def _before(samples: list[_Sample], n: int) -> _Sample:
    """Return the sample from which the rate at sample `n` counts: a window earlier.

    Later than that if nothing was to do meanwhile: a job that has just begun is not slow.
    """
    for one in reversed(samples[:n]):
        if not one.backlog.images or one.at_s <= samples[n].at_s - WINDOW_S:
            return one
    return samples[0]


def _rate(before: _Sample, last: _Sample) -> float | None:
    passed_s = last.at_s - before.at_s
    return (last.done - before.done) / passed_s if passed_s else None


def _share(
    worker: str, known: Mapping[str, Any], last: _Sample, before: _Sample, now_s: float
) -> Share:
    sums = last.sums.get(worker, {})
    then = before.sums.get(worker, {})
    new = {name: value - then.get(name, 0) for name, value in sums.items()}
    passed_s = last.at_s - before.at_s

    def mean(name: str) -> float | None:
        of = new.get(f"{name}:of")
        return new[name] / of if of else None

    stages = {stage: mean(f"{stage}_ms") for stage in STAGES}
    return Share(
        worker=worker,
        device=known.get("device", ""),
        model=known.get("model", ""),
        images=int(sums.get("images", 0)),
        failed=int(sums.get("failed", 0)),
        images_per_s=new.get("images", 0) / passed_s if passed_s else 0.0,
        batch=mean("batch"),
        stages_ms={stage: ms for stage, ms in stages.items() if ms is not None},
        silent_s=now_s - known["heard_s"],
    )
