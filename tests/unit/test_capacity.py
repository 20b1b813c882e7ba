"""A worker takes in chunks by the room for their images."""

from __future__ import annotations

from worker.pipeline.capacity import Room


def test_a_worker_that_holds_little_asks_for_more() -> None:
    room = Room(4)
    assert room.is_left
    room.take(3)
    assert room.is_left
    room.take(32)
    assert not room.is_left


def test_it_hears_once_that_there_is_room_again() -> None:
    room, calls = Room(4), list[None]()
    room.take(8)
    room.on_left = lambda: calls.append(None)
    for held in range(7, -1, -1):
        room.give_back()
        assert room.is_left == (held < 4)
    assert calls == [None]


def test_a_chunk_that_leaves_room_says_so() -> None:
    room, calls = Room(4), list[None]()
    room.on_left = lambda: calls.append(None)
    room.take(3)
    assert len(calls) == 1
    room.take(3)
    assert len(calls) == 1
    room.give_back(6)
    assert len(calls) == 2


def test_it_knows_for_how_long_nothing_has_been_done() -> None:
    now_s = 10.0
    room = Room(4, lambda: now_s)
    assert room.still_s == 0
    now_s = 50.0
    room.take(2)
    now_s = 53.0
    assert room.still_s == 3
    room.give_back()
    assert room.still_s == 0
    now_s = 60.0
    room.take(1)
    assert room.still_s == 7
    room.give_back(2)
    assert room.still_s == 0


def test_a_closed_room_takes_nothing_more() -> None:
    room = Room(4)
    room.close()
    assert not room.is_left
