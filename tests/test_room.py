"""A worker takes in chunks by the room for their images."""

from __future__ import annotations

from worker.room import Room


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
