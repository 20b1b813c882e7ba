"""Batches in parts: every part has as many images and threads, and rows come back in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch
from conftest import PATIENCE_S

from worker.engines.cpu_streams import Streams

THREADS = 4


class Spy:
    """Writes down how many images and threads each call had; gives every image's first value."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def __call__(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        self.calls.append((len(pixels_NCHW), torch.get_num_threads()))
        return pixels_NCHW[:, 0, 0, :1].float()


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("images", "parts"),
    [
        (1, [(1, 4)]),
        (2, [(1, 2), (1, 2)]),
        (3, [(3, 4)]),
        (4, [(1, 1)] * 4),
        (6, [(3, 2), (3, 2)]),
        (8, [(2, 1)] * 4),
    ],
)
def test_every_part_has_as_many_images_and_threads(
    images: int, parts: list[tuple[int, int]]
) -> None:
    spy = Spy()
    pixels_NCHW = torch.arange(images, dtype=torch.uint8).view(-1, 1, 1, 1)
    rows_ND = Streams(spy, THREADS).launch(pixels_NCHW)()
    assert rows_ND.view(-1).tolist() == list(range(images))
    assert spy.calls == parts


def test_parts_run_side_by_side() -> None:
    meet = threading.Barrier(2)

    def run(pixels_NCHW: torch.Tensor) -> torch.Tensor:
        meet.wait(PATIENCE_S)
        return pixels_NCHW.float()

    Streams(run, 2).launch(torch.zeros(2, 1, 1, 1))()


def test_a_thread_that_is_done_takes_up_the_next_batch() -> None:
    go_on = threading.Event()
    begun: list[float] = []

    def run(pixels_NCHW: torch.Tensor) -> torch.Tensor:
        first = float(pixels_NCHW[0, 0, 0, 0])
        begun.append(first)
        if first == 0:
            assert go_on.wait(PATIENCE_S)
        elif first == 3:
            go_on.set()
        return pixels_NCHW[:, 0, 0, :1].float()

    streams = Streams(run, 2)
    pixels_NCHW = torch.arange(4).view(-1, 1, 1, 1)
    # The first part of the first batch ends only when all of the second has begun.
    waits = [streams.launch(pixels_NCHW[:2]), streams.launch(pixels_NCHW[2:])]
    assert torch.cat([wait() for wait in waits]).view(-1).tolist() == [0, 1, 2, 3]
    assert sorted(begun) == [0, 1, 2, 3]


def test_of_two_batches_no_more_parts_run_than_there_are_threads_for() -> None:
    lock = threading.Lock()
    busy: list[int] = []
    most: list[int] = []

    def run(pixels_NCHW: torch.Tensor) -> torch.Tensor:
        with lock:
            busy.append(torch.get_num_threads())
            most.append(sum(busy))
        time.sleep(0.05)
        with lock:
            busy.remove(torch.get_num_threads())
        return pixels_NCHW.float()

    streams = Streams(run, THREADS)
    # Parts of two threads each, of one each, and a whole batch on all.
    waits = [streams.launch(torch.zeros(images, 1, 1, 1)) for images in (2, 2, 4, 3)]
    assert [len(wait()) for wait in waits] == [2, 2, 4, 3]
    assert max(most) <= THREADS


def test_threads_that_come_later_have_all_threads_again() -> None:
    streams = Streams(Spy(), THREADS)
    streams.launch(torch.zeros(4, 1, 1, 1))()
    seen: list[int] = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [THREADS]
    spy = Spy()
    Streams(spy, THREADS).launch(torch.zeros(1, 1, 1, 1))()
    assert spy.calls == [(1, THREADS)]


def test_a_part_that_fails_is_raised_when_no_part_runs_any_more() -> None:
    done: list[int] = []

    def run(pixels_NCHW: torch.Tensor) -> torch.Tensor:
        if pixels_NCHW[0, 0, 0, 0] == 0:
            msg = "not this one"
            raise RuntimeError(msg)
        time.sleep(0.2)
        done.append(len(pixels_NCHW))
        return pixels_NCHW.float()

    with pytest.raises(RuntimeError, match="not this one"):
        Streams(run, 2).launch(torch.arange(2).view(-1, 1, 1, 1))()
    assert done == [1]
