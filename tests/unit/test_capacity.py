"""A worker takes in chunks by the room for their images."""

from __future__ import annotations

from worker.pipeline.capacity import Capacity


def test_a_worker_that_holds_little_asks_for_more() -> None:
    capacity = Capacity(4)
    assert capacity.is_left
    capacity.take(3)
    assert capacity.is_left
    capacity.take(32)
    assert not capacity.is_left


def test_it_hears_once_that_there_is_room_again() -> None:
    capacity, calls = Capacity(4), list[None]()
    capacity.take(8)
    capacity.on_left = lambda: calls.append(None)
    for held in range(7, -1, -1):
        capacity.give_back()
        assert capacity.is_left == (held < 4)
    assert calls == [None]


def test_a_chunk_that_leaves_room_says_so() -> None:
    capacity, calls = Capacity(4), list[None]()
    capacity.on_left = lambda: calls.append(None)
    capacity.take(3)
    assert len(calls) == 1
    capacity.take(3)
    assert len(calls) == 1
    capacity.give_back(6)
    assert len(calls) == 2


def test_it_knows_for_how_long_nothing_has_been_done() -> None:
    now_s = 10.0
    capacity = Capacity(4, lambda: now_s)
    assert capacity.still_s == 0
    now_s = 50.0
    capacity.take(2)
    now_s = 53.0
    assert capacity.still_s == 3
    capacity.give_back()
    assert capacity.still_s == 0
    now_s = 60.0
    capacity.take(1)
    assert capacity.still_s == 7
    capacity.give_back(2)
    assert capacity.still_s == 0


def test_work_on_what_images_wait_for_counts_as_well() -> None:
    now_s = 10.0
    capacity = Capacity(4, lambda: now_s)
    capacity.take(2)
    now_s = 200.0
    capacity.note_progress()
    now_s = 201.0
    assert capacity.still_s == 1


def test_a_closed_room_takes_nothing_more() -> None:
    capacity = Capacity(4)
    capacity.close()
    assert not capacity.is_left
