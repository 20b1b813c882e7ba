"""Micro-batches form as they should, and nobody waits for ever. Time is a number here."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from conftest import PATIENCE_S

from worker.errors import DeviceMemoryError, InferenceError, WorkerGoneError
from worker.pipeline.batch_policy import (
    LEAST_PATIENCE_S,
    PATIENCE_GAPS,
    BatchPolicy,
    Embeddings,
    Inferred,
    Item,
    Outcome,
    Pixels,
)
from worker.pipeline.batch_runner import Wait
from worker.pipeline.batcher import Batcher


@dataclass
class Clock:
    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


def pixels(value: int) -> Pixels:
    return np.full((3, 2, 2), value, np.uint8)


def item(ready_at_s: float = 0.0) -> Item:
    return Item(pixels(0), ready_at_s, lambda _: None)


def put(batcher: Batcher, value: int) -> Future[Inferred]:
    """Put an image that was announced; what becomes of it is the future's."""
    future = Future[Inferred]()

    def resolve(outcome: Outcome) -> None:
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    batcher.put(pixels(value), resolve)
    return future


def policy_with(
    ready: int, expected: int, *, gap_s: float = 1.0, max_batch: int = 4
) -> tuple[BatchPolicy, float]:
    """Return a policy in which images came `gap_s` apart, and the time of the last."""
    policy = BatchPolicy(max_batch)
    policy.expect(ready + expected, 0.0)
    for number in range(ready):
        policy.put(item((number + 1) * gap_s))
    return policy, ready * gap_s


class Script:
    """An engine that embeds an image as its first pixel, calls `before`, and keeps the batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.before: Callable[[list[int]], None] = lambda _: None

    def __call__(self, batch: Sequence[Pixels]) -> Embeddings:
        values = [int(one[0, 0, 0]) for one in batch]
        self.batches.append(values)
        self.before(values)
        return np.array([[value] for value in values], np.float32)


def at_once(infer: Callable[[Sequence[Pixels]], Embeddings]) -> Callable[[Sequence[Pixels]], Wait]:
    """Launch as an engine on the CPU does: the batch is computed before it returns."""

    def launch(batch: Sequence[Pixels]) -> Wait:
        rows = infer(batch)
        return lambda: rows

    return launch


@dataclass
class Bench:
    """A batcher with its script and clock."""

    batcher: Batcher
    script: Script
    clock: Clock
    deaths: list[None] = field(default_factory=list)

    def put(self, *values: int) -> list[Future[Inferred]]:
        """Announce and put images at once."""
        self.batcher.expect(len(values))
        return [put(self.batcher, value) for value in values]


@contextmanager
def bench(max_batch: int = 4, *, started: bool = True) -> Iterator[Bench]:
    script, clock, deaths = Script(), Clock(), list[None]()
    batcher = Batcher(at_once(script), max_batch, clock=clock, on_death=lambda: deaths.append(None))
    if started:
        batcher.start()
    try:
        yield Bench(batcher, script, clock, deaths)
    finally:
        batcher.stop()


# --- when to take


def test_nothing_ready_is_nothing_to_take() -> None:
    policy = BatchPolicy(4)
    policy.expect(9, 0.0)
    assert policy.patience_s(0.0) is None
    assert policy.take() == []


def test_a_full_batch_leaves_at_once() -> None:
    policy, now_s = policy_with(ready=4, expected=20)
    assert policy.patience_s(now_s) == 0


def test_an_urgent_image_goes_first_and_alone() -> None:
    policy, now_s = policy_with(ready=3, expected=20)
    item = Item(pixels(9), now_s, lambda _: None)
    assert policy.put(item, urgent=True)
    assert policy.ready == 4
    assert policy.is_full
    assert policy.patience_s(now_s) == 0
    assert policy.take() == [item]
    assert len(policy.take()) == 3


def test_urgent_images_share_a_batch() -> None:
    policy = BatchPolicy(2)
    policy.expect(3, 0.0)
    items = [Item(pixels(n), 0.0, lambda _: None) for n in range(3)]
    for item in items:
        policy.put(item, urgent=True)
    assert [policy.take(), policy.take(), policy.take()] == [items[:2], items[2:], []]


def test_a_lone_image_on_an_idle_worker_goes_at_once() -> None:
    policy, now_s = policy_with(ready=1, expected=0)
    assert policy.patience_s(now_s) == 0


def test_a_batch_that_cannot_fill_any_more_goes_at_once() -> None:
    policy, now_s = policy_with(ready=2, expected=1)
    assert policy.patience_s(now_s) == 0


def test_a_thread_that_lost_its_core_is_waited_for_however_fast_the_others_are() -> None:
    policy, now_s = policy_with(ready=2, expected=2, gap_s=0.0001)
    assert policy.patience_s(now_s) == pytest.approx(2 * LEAST_PATIENCE_S)


def test_images_that_can_fill_the_batch_are_waited_for() -> None:
    policy, now_s = policy_with(ready=2, expected=2, gap_s=0.5)
    assert policy.patience_s(now_s) == pytest.approx(PATIENCE_GAPS * 2 * 0.5)


def test_patience_ends_at_its_deadline_whatever_trickles_in() -> None:
    policy, now_s = policy_with(ready=1, expected=9, gap_s=1.0)
    whole_s = PATIENCE_GAPS * 3
    assert policy.patience_s(now_s) == pytest.approx(whole_s)
    policy.put(item(now_s + 10.0))
    assert policy.patience_s(now_s + 10.0) == pytest.approx(whole_s - 10.0)
    assert policy.patience_s(now_s + whole_s) == 0


def test_a_failed_decode_ends_waiting_that_has_become_vain() -> None:
    policy, now_s = policy_with(ready=3, expected=1)
    assert policy.patience_s(now_s) != 0
    policy.forget()
    assert policy.patience_s(now_s) == 0


def test_each_batch_has_patience_of_its_own() -> None:
    policy, now_s = policy_with(ready=1, expected=20, gap_s=1.0)
    first_s = policy.patience_s(now_s)
    assert len(policy.take()) == 1
    policy.put(item(now_s + 1.0))
    assert policy.patience_s(now_s + 1.0) == pytest.approx(first_s)


def test_one_huge_image_does_not_make_the_worker_patient_for_long() -> None:
    policy, now_s = policy_with(ready=4, expected=20, gap_s=0.1)
    policy.take()
    policy.put(item(now_s + 60.0))
    patience_s = policy.patience_s(now_s + 60.0)
    assert patience_s is not None
    assert patience_s < 3 * PATIENCE_GAPS * 0.2


def test_idle_time_is_no_gap() -> None:
    policy, now_s = policy_with(ready=4, expected=0, gap_s=0.1)
    policy.take()
    policy.expect(4, now_s + 3600)
    policy.put(item(now_s + 3600.1))
    assert policy.patience_s(now_s + 3600.1) == pytest.approx(PATIENCE_GAPS * 3 * 0.1)


def test_the_oldest_leave_first_and_never_more_than_a_batch() -> None:
    policy, _ = policy_with(ready=6, expected=0)
    assert [one.ready_at_s for one in policy.take()] == [1, 2, 3, 4]
    assert [one.ready_at_s for one in policy.take()] == [5, 6]


def simulate(decode_gap_s: float, infer_s: float, images: int = 2000) -> Counter[int]:
    """Return the batch sizes when images become ready at random while others are inferred."""
    rng = random.Random(4)
    policy = BatchPolicy(4)
    policy.expect(images, 0.0)
    now_s, sizes, ready_at_s = 0.0, Counter[int](), list[float]()
    for _ in range(images):
        now_s += rng.expovariate(1 / decode_gap_s)
        ready_at_s.append(now_s)
    now_s, coming = 0.0, ready_at_s[::-1]
    while sizes.total() == 0 or sum(size * n for size, n in sizes.items()) < images:
        while coming and coming[-1] <= now_s:
            policy.put(item(coming.pop()))
        patience_s = policy.patience_s(now_s)
        if patience_s == 0:
            sizes[len(policy.take())] += 1
            now_s += infer_s
        elif patience_s is None or (coming and coming[-1] < now_s + patience_s):
            now_s = coming[-1]
        else:
            now_s += patience_s + 1e-9
    return sizes


@pytest.mark.parametrize(
    ("decode_gap_s", "infer_s"), [(0.02, 0.001), (0.02, 0.05), (0.02, 0.08), (0.02, 0.4)]
)
def test_under_backlog_batches_are_full(decode_gap_s: float, infer_s: float) -> None:
    sizes = simulate(decode_gap_s, infer_s)
    mean = sum(size * n for size, n in sizes.items()) / sizes.total()
    assert mean >= 3.9


# --- the thread


def test_every_image_gets_its_own_embedding_and_timings() -> None:
    with bench() as b:
        b.script.before = lambda _: setattr(b.clock, "now_s", b.clock.now_s + 0.25)
        for value, future in zip((7, 8, 9, 6), b.put(7, 8, 9, 6), strict=True):
            inferred = future.result(PATIENCE_S)
            assert inferred.embedding_D.tolist() == [value]
            assert inferred.infer_ms == pytest.approx(250)
            assert inferred.batch_wait_ms >= 0


def test_waiting_is_measured_until_the_batch_starts() -> None:
    with bench(max_batch=2) as b:
        b.batcher.expect(2)
        b.clock.now_s += 1  # So there is patience, and it ends by this clock alone.
        first = put(b.batcher, 1)
        b.clock.now_s += 0.5
        second = put(b.batcher, 2)
        assert first.result(PATIENCE_S).batch_wait_ms == pytest.approx(500)
        assert second.result(PATIENCE_S).batch_wait_ms == pytest.approx(0)
        assert b.script.batches == [[1, 2]]


def test_images_of_different_callers_share_a_batch() -> None:
    with bench() as b:
        b.batcher.expect(4)
        b.clock.now_s += 100
        futures: list[Future[Inferred]] = []

        def call(value: int) -> None:
            futures.append(put(b.batcher, value))

        callers = [threading.Thread(target=call, args=(value,)) for value in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert {future.result(PATIENCE_S).batch_size for future in futures} == {4}
        assert b.batcher.sizes() == {4: 1}


def test_what_gathers_during_inference_leaves_together() -> None:
    with bench() as b:
        busy, go_on = threading.Event(), threading.Event()

        def hold(_: list[int]) -> None:
            busy.set()
            assert go_on.wait(PATIENCE_S)

        b.script.before = hold
        first = b.put(1)
        assert busy.wait(PATIENCE_S)
        rest = b.put(2, 3, 4, 5, 6)
        go_on.set()
        assert [future.result(PATIENCE_S).batch_size for future in first + rest] == [
            1,
            4,
            4,
            4,
            4,
            1,
        ]


def test_a_forgotten_image_lets_the_others_go() -> None:
    with bench(max_batch=2) as b:
        b.batcher.expect(2)
        b.clock.now_s += 1000
        future = put(b.batcher, 1)
        b.batcher.forget()
        assert future.result(PATIENCE_S).batch_size == 1


def poison(value: int, error: BaseException) -> Callable[[list[int]], None]:
    def check(values: list[int]) -> None:
        if value in values:
            raise error

    return check


def test_only_the_culprit_of_a_failed_batch_fails() -> None:
    with bench(started=False) as b:
        b.script.before = poison(3, ZeroDivisionError("engine"))
        futures = b.put(1, 2, 3, 4)
        b.batcher.start()
        for future, value in ((futures[0], 1), (futures[1], 2), (futures[3], 4)):
            assert future.result(PATIENCE_S).embedding_D.tolist() == [value]
            assert future.result().batch_size == 1
        with pytest.raises(InferenceError) as caught:
            futures[2].result(PATIENCE_S)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert b.script.batches == [[1, 2, 3, 4], [1], [2], [3], [4]]


def test_after_a_failure_the_next_batch_runs() -> None:
    with bench() as b:
        b.script.before = poison(1, MemoryError())
        (bad,) = b.put(1)
        with pytest.raises(InferenceError):
            bad.result(PATIENCE_S)
        (good,) = b.put(2)
        assert good.result(PATIENCE_S).embedding_D.tolist() == [2]
        assert not b.batcher.died


def test_an_engine_that_drops_a_row_fails_instead_of_mixing_images_up() -> None:
    def drop_one(batch: Sequence[Pixels]) -> Embeddings:
        return np.zeros((len(batch) - 1, 1), np.float32)

    batcher = Batcher(at_once(drop_one), 2)
    batcher.expect(2)
    futures = [put(batcher, 0) for _ in range(2)]
    batcher.start()
    for future in futures:
        with pytest.raises(InferenceError, match="1 images gave 0 embeddings"):
            future.result(PATIENCE_S)
    batcher.stop()


@pytest.mark.parametrize("death", [SystemExit(), KeyboardInterrupt()])
def test_when_the_thread_dies_every_image_fails_and_the_worker_hears_of_it(
    death: BaseException,
) -> None:
    with bench(started=False) as b:
        b.script.before = poison(2, death)
        pending = b.put(1, 2, 3, 4, 5, 6)
        b.batcher.start()
        for future in pending:
            with pytest.raises(WorkerGoneError, match="inference thread has ended"):
                future.result(PATIENCE_S)
        b.batcher._thread.join(PATIENCE_S)
        assert b.batcher.died
        assert b.deaths == [None]
        (later,) = b.put(7)
        with pytest.raises(WorkerGoneError, match="inference thread has ended"):
            later.result(PATIENCE_S)


def test_the_dying_thread_may_stop_the_batcher_itself() -> None:
    with bench() as b:
        b.script.before = poison(1, SystemExit())
        b.batcher._on_death = b.batcher.stop
        (future,) = b.put(1)
        with pytest.raises(WorkerGoneError):
            future.result(PATIENCE_S)
        b.batcher._thread.join(PATIENCE_S)
        assert not b.batcher._thread.is_alive()


def test_stopping_finishes_what_is_ready_without_waiting_for_more() -> None:
    with bench() as b:
        b.batcher.expect(9)
        b.clock.now_s += 1000
        futures = [put(b.batcher, value) for value in (1, 2)]
        b.batcher.stop()
        assert [future.result(0).batch_size for future in futures] == [2, 2]


def test_who_fails_to_take_an_embedding_does_not_end_the_thread() -> None:
    def fail(_: Outcome) -> None:
        raise OSError

    with bench() as b:
        b.batcher.expect(1)
        b.batcher.put(pixels(1), fail)
        (later,) = b.put(2)
        assert later.result(PATIENCE_S).embedding_D.tolist() == [2]
    assert not b.deaths


def test_after_stopping_nothing_can_be_put() -> None:
    with bench() as b:
        b.batcher.stop()
        b.batcher.stop()
        b.batcher.expect(1)
        with pytest.raises(WorkerGoneError, match="stopped"):
            put(b.batcher, 1)


def test_a_batcher_that_was_never_started_lets_nobody_wait() -> None:
    with bench(started=False) as b:
        (future,) = b.put(1)
        b.batcher.stop()
        with pytest.raises(WorkerGoneError):
            future.result(0)


def test_the_histogram_counts_batches_by_size() -> None:
    with bench(started=False) as b:
        futures: list[Any] = b.put(*range(9))
        b.batcher.start()
        for future in futures:
            future.result(PATIENCE_S)
        assert b.batcher.sizes() == {1: 1, 4: 2}


# --- a device that works on its own


class Device:
    """Launches at once and ends a batch when released; those fail that hold a value in `fail`."""

    def __init__(self) -> None:
        self.launched: list[list[int]] = []
        self.awaited: list[list[int]] = []
        self.go_on = threading.Semaphore(0)
        self.fail: dict[int, BaseException] = {}

    def __call__(self, batch: Sequence[Pixels]) -> Wait:
        values = [int(one[0, 0, 0]) for one in batch]
        self.launched.append(values)

        def wait() -> Embeddings:
            assert self.go_on.acquire(timeout=PATIENCE_S)
            self.awaited.append(values)
            for value in values:
                if value in self.fail:
                    raise self.fail[value]
            return np.array([[value] for value in values], np.float32)

        return wait


@dataclass
class Ahead:
    """A batcher on such a device."""

    batcher: Batcher
    device: Device
    clock: Clock

    def put(self, *values: int) -> list[Future[Inferred]]:
        self.batcher.expect(len(values))
        return [put(self.batcher, value) for value in values]


@pytest.fixture
def ahead() -> Iterator[Ahead]:
    device, clock = Device(), Clock()
    batcher = Batcher(device, 2, clock=clock)
    yield Ahead(batcher, device, clock)
    device.go_on.release(99)
    batcher.stop()


WaitUntil = Callable[[Callable[[], bool]], None]


def test_a_full_batch_is_launched_while_one_runs_and_no_third(
    ahead: Ahead, wait_until: WaitUntil
) -> None:
    futures = ahead.put(1, 2, 3, 4, 5, 6)
    ahead.batcher.start(pipelined=True)
    wait_until(lambda: len(ahead.device.launched) == 2)
    assert not any(future.done() for future in futures)
    ahead.device.go_on.release()
    assert [future.result(PATIENCE_S).embedding_D[0] for future in futures[:2]] == [1, 2]
    wait_until(lambda: len(ahead.device.launched) == 3)
    assert ahead.device.launched == [[1, 2], [3, 4], [5, 6]]
    ahead.device.go_on.release(2)
    assert [future.result(PATIENCE_S).embedding_D[0] for future in futures] == [1, 2, 3, 4, 5, 6]


def test_a_batch_that_is_not_full_waits_for_the_device(ahead: Ahead, wait_until: WaitUntil) -> None:
    futures = ahead.put(1, 2, 3)
    ahead.batcher.start(pipelined=True)
    wait_until(lambda: len(ahead.device.launched) == 1)
    ahead.device.go_on.release()
    futures[1].result(PATIENCE_S)
    wait_until(lambda: len(ahead.device.launched) == 2)
    # Until the device was free, a fourth image could still have come.
    assert ahead.device.awaited == [[1, 2]]
    ahead.device.go_on.release()
    assert futures[2].result(PATIENCE_S).batch_size == 1


def test_an_engine_that_computes_itself_is_never_given_two(ahead: Ahead) -> None:
    futures = ahead.put(1, 2, 3, 4)
    ahead.device.go_on.release(2)
    ahead.batcher.start()
    for future in futures:
        future.result(PATIENCE_S)
    assert ahead.device.launched == ahead.device.awaited == [[1, 2], [3, 4]]


def test_neighbours_are_spared_after_the_batch_that_was_launched_meanwhile(ahead: Ahead) -> None:
    ahead.device.fail = {2: RuntimeError("no twos")}
    ahead.device.go_on.release(99)
    futures = ahead.put(1, 2, 3, 4)
    ahead.batcher.start(pipelined=True)
    with pytest.raises(InferenceError):
        futures[1].result(PATIENCE_S)
    for number in (0, 2, 3):
        assert futures[number].result(PATIENCE_S).embedding_D[0] == number + 1
    assert ahead.device.awaited == [[1, 2], [3, 4], [1], [2]]


@pytest.mark.parametrize("death", [SystemExit(), KeyboardInterrupt()])
def test_when_the_thread_dies_both_batches_fail(ahead: Ahead, death: BaseException) -> None:
    ahead.device.fail = {1: death}
    ahead.device.go_on.release(99)
    futures = ahead.put(1, 2, 3, 4, 5)
    ahead.batcher.start(pipelined=True)
    for future in futures:
        with pytest.raises(WorkerGoneError, match="thread has ended"):
            future.result(PATIENCE_S)
    assert ahead.batcher.died


def test_stopping_awaits_what_was_launched(ahead: Ahead, wait_until: WaitUntil) -> None:
    futures = ahead.put(1, 2, 3, 4, 5)
    ahead.batcher.start(pipelined=True)
    wait_until(lambda: len(ahead.device.launched) == 2)
    ahead.device.go_on.release(99)
    ahead.batcher.stop()
    assert [future.result(0).embedding_D[0] for future in futures] == [1, 2, 3, 4, 5]


def test_a_batch_is_timed_from_the_end_of_the_one_before(
    ahead: Ahead, wait_until: WaitUntil
) -> None:
    futures = ahead.put(1, 2, 3, 4)
    ahead.batcher.start(pipelined=True)
    wait_until(lambda: len(ahead.device.launched) == 2)
    ahead.clock.now_s += 0.008
    ahead.device.go_on.release()
    first = futures[1].result(PATIENCE_S)
    wait_until(lambda: ahead.device.awaited == [[1, 2]])
    ahead.clock.now_s += 0.005
    ahead.device.go_on.release()
    second = futures[3].result(PATIENCE_S)
    assert [first.infer_ms, first.batch_wait_ms] == pytest.approx([8, 0])
    assert [second.infer_ms, second.batch_wait_ms] == pytest.approx([5, 8])


def test_a_batch_that_does_not_fit_is_halved_and_its_size_remembered() -> None:
    def before(values: list[int]) -> None:
        if len(values) > 1:
            raise DeviceMemoryError

    with bench() as tested:
        tested.script.before = before
        found = [future.result(PATIENCE_S) for future in tested.put(*range(8))]
        assert [int(one.embedding_D[0]) for one in found] == list(range(8))
        assert {one.batch_size for one in found} == {1}
        assert tested.batcher.max_batch == 1
        assert 2 <= tested.batcher.halvings <= 3
        # No batch is larger from then on.
        sizes = [len(batch) for batch in tested.script.batches]
        assert sizes[sizes.index(1) + 1 :].count(2) <= 1
        assert sizes[-4:] == [1] * 4


def test_one_image_that_does_not_fit_fails_alone() -> None:
    def before(values: list[int]) -> None:
        if 7 in values:
            raise DeviceMemoryError

    with bench() as tested:
        tested.script.before = before
        good, bad = tested.put(1, 7)
        assert int(good.result(PATIENCE_S).embedding_D[0]) == 1
        with pytest.raises(DeviceMemoryError, match="too little memory"):
            bad.result(PATIENCE_S)
