"""What the Throughput page is made of: rates, time left and who does how much, from sums."""

from __future__ import annotations

from typing import Any

import pytest

from producer.monitoring.flower import svg as plots
from producer.monitoring.flower.throughput_stats import KEPT_S, PERIOD_S, WINDOW_S, Throughput, View
from producer.monitoring.queue_stats import QueueStats


class Bench:
    """A queue whose clock, jobs and workers the test moves."""

    def __init__(self) -> None:
        self.s = 100.0
        self.seen = Throughput(lambda: self.s)

    def look(self, images: int = 0, **done: int) -> View:
        """Let a period pass, then look."""
        self.s += PERIOD_S
        states = {"submitted": len(done)}
        self.seen.look(
            QueueStats(
                images=images,
                done=done,
                states=states,
                waiting=images // 8,
                in_workers=0,
                oldest_s=1.5,
                dead_letters=2,
            )
        )
        return self.seen.view()

    def on_event(self, worker: str, **reply: Any) -> None:
        self.seen.on_event({"type": "task-succeeded", "hostname": worker, **reply})


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_before_a_look_there_is_nothing_to_show(bench: Bench) -> None:
    assert bench.seen.view() == View(redis_up=False)
    only = bench.look(80, a=0)
    assert (only.backlog_images, only.chunks_waiting, only.dead_letters) == (80, 10, 2)
    assert (only.images_per_s, only.left_s, only.oldest_s) == (None, None, 1.5)


def test_the_rate_counts_all_jobs_over_the_last_ten_seconds(bench: Bench) -> None:
    for done in (0, 20, 40, 60, 80, 100):
        view = bench.look(1000 - done, a=done)
    assert view.images_per_s == pytest.approx(100 / WINDOW_S)
    assert view.left_s == pytest.approx(900 / 10)
    for done in (200, 300, 400, 500, 600):
        view = bench.look(900 - done, a=100, b=done)
    assert view.images_per_s == pytest.approx(600 / WINDOW_S)
    rates = [one.images_per_s for one in view.moments]
    assert rates[:6] == [None, 10, 10, 10, 10, 10]
    assert [one.ago_s for one in view.moments] == [20 - PERIOD_S * n for n in range(11)]


def test_a_job_that_has_just_begun_is_not_slow(bench: Bench) -> None:
    for _ in range(10):
        idle = bench.look(0, a=0)
    assert (idle.images_per_s, idle.left_s) == (0, None)
    view = bench.look(960, a=40)
    assert view.images_per_s == pytest.approx(40 / PERIOD_S)
    assert view.left_s == pytest.approx(48)
    bench.look(0, a=1000)
    assert bench.look(0, a=1000).images_per_s == 0


def test_a_job_that_is_forgotten_takes_nothing_away(bench: Bench) -> None:
    bench.look(10, old=5000, new=0)
    assert bench.look(10, new=20).images_per_s == pytest.approx(20 / PERIOD_S)


def test_each_worker_has_its_rate_its_batches_and_its_stages(bench: Bench) -> None:
    bench.look(100, a=0)
    reply = {"device": "cpu", "model": "m", "read_ms": 1.0, "queue_ms": 9.0}
    bench.on_event("fast", images=30, failed_images=1, batch=4.0, infer_ms=10.0, **reply)
    bench.on_event("fast", images=10, failed_images=0, batch=2.0, infer_ms=30.0, **reply)
    bench.on_event("slow", images=8, failed_images=8, batch=None, infer_ms=None, **reply)
    fast, slow = bench.look(60, a=48).workers
    assert (fast.worker, fast.images, fast.failed) == ("fast", 40, 1)
    assert (fast.device, fast.model) == ("cpu", "m")
    assert fast.images_per_s == pytest.approx(40 / PERIOD_S)
    assert fast.batch == pytest.approx((30 * 4 + 10 * 2) / 40)
    assert fast.stages_ms == {"read": 1, "infer": pytest.approx(15)}
    assert (slow.images, slow.failed, slow.batch) == (8, 8, None)
    assert slow.stages_ms == {"read": 1}
    for _ in range(6):
        still, _ = bench.look(60, a=48).workers
    assert (still.images, still.images_per_s, still.batch, still.stages_ms) == (40, 0, None, {})


def test_a_worker_that_is_silent_is_shown_so_and_at_last_forgotten(bench: Bench) -> None:
    bench.seen.on_event({"type": "worker-heartbeat", "hostname": "w"})
    (worker,) = bench.look().workers
    assert (worker.silent_s, worker.images) == (PERIOD_S, 0)
    bench.seen.on_event({"type": "worker-offline", "hostname": "w"})
    bench.s += KEPT_S
    assert bench.look().workers == ()


def test_what_is_kept_is_bounded(bench: Bench) -> None:
    for n in range(int(3 * KEPT_S / PERIOD_S)):
        view = bench.look(0, a=n)
    assert len(view.moments) == KEPT_S / PERIOD_S + 1
    assert view.moments[0].ago_s == KEPT_S


def test_when_redis_is_away_the_last_figures_stay_and_it_is_said(bench: Bench) -> None:
    bench.look(80, a=0)
    bench.seen.look(None)
    view = bench.seen.view()
    assert (view.redis_up, view.backlog_images) == (False, 80)
    assert bench.look(80, a=0).redis_up


@pytest.mark.parametrize(
    "event",
    [{}, {"hostname": 7}, {"hostname": "w"}, {"hostname": "w", "type": "task-succeeded"}],
)
def test_events_of_other_programs_do_no_harm(bench: Bench, event: dict[str, Any]) -> None:
    bench.seen.on_event(event)
    assert all(worker.images == 0 for worker in bench.look().workers)


@pytest.mark.parametrize(
    ("most", "top"),
    [(0, 1), (0.3, 1), (1.5, 2), (2.1, 2.5), (7, 10), (10, 10), (11, 20), (2184, 2500)],
)
def test_the_top_of_a_plot_is_a_round_number(most: float, top: float) -> None:
    assert plots.top_of([None, 0.0, most]) == top
    assert plots.top_of([]) == 1


@pytest.mark.parametrize(
    ("oldest", "span"), [(0, 60), (61, 120), (300, 300), (599, 600), (601, 600)]
)
def test_a_plot_shows_no_more_time_than_it_has(oldest: float, span: float) -> None:
    assert plots.span_of([oldest, 0.0]) == span
    assert plots.span_of([]) == 60


def test_a_plot_goes_from_the_left_to_now(bench: Bench) -> None:
    line = plots.points([600.0, 300.0, 100.0, 0.0], [0.0, 5.0, None, 10.0], 10.0, 600.0)
    middle = f"{plots.WIDTH / 2:.1f},{plots.HEIGHT / 2:.1f}"
    assert line == f"0.0,{plots.HEIGHT:.1f} {middle} {plots.WIDTH:.1f},0.0"
