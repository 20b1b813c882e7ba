"""Which decode process gets an image next, and how many a process has in advance."""

from __future__ import annotations

from typing import Any

import pytest

from worker.images.decoder import DecodeRequest
from worker.images.isolated.staff import Staff


class Process:
    """A decode process that keeps the orders that it is sent."""

    locks = 0
    may_wait = False

    def __init__(self, *, urgent_only: bool = False) -> None:
        self.urgent_only = urgent_only
        self.sent: list[list[DecodeRequest]] = []

    @property
    def orders(self) -> int:
        return len(self.sent)

    def send(self, requests: list[DecodeRequest]) -> None:
        self.sent.append(requests)


def request(*, urgent: bool = False) -> DecodeRequest:
    made = DecodeRequest(lambda _: None, path=b"/a.jpg")
    made.is_urgent = urgent
    return made


def staff(image_ms: float, *processes: Process) -> Staff:
    made: Any = Staff(lambda: 0.0)
    made.members = [*processes]
    for _ in range(100):
        made.waiting.pace.note(image_ms)
    found: Staff = made
    return found


@pytest.mark.parametrize(("image_ms", "orders"), [(1.0, 2), (15.0, 2), (75.0, 1)])
def test_the_next_order_is_there_before_the_last_is_done_unless_images_are_slow(
    image_ms: float, orders: int
) -> None:
    first, second, urgent = Process(), Process(), Process(urgent_only=True)
    people = staff(image_ms, first, second, urgent)
    people.waiting.add([request() for _ in range(100)])
    people.feed()
    assert (first.orders, second.orders, urgent.orders) == (orders, orders, 0)


def test_no_process_has_two_orders_while_another_has_none() -> None:
    processes = [Process() for _ in range(4)]
    people = staff(15.0, *processes)
    people.waiting.add([request() for _ in range(6)])
    people.feed()
    assert sorted(one.orders for one in processes) == [1, 1, 2, 2]


def test_while_urgent_images_wait_a_process_that_is_done_takes_them() -> None:
    worker, urgent_one = Process(), Process(urgent_only=True)
    people = staff(15.0, worker, urgent_one)
    people.waiting.add([request() for _ in range(9)])
    people.waiting.add([request(urgent=True) for _ in range(3)])
    people.feed()
    # Urgent ones first: one each. Nothing else is handed out while the third of them waits.
    assert [[one.is_urgent for one in order] for order in worker.sent] == [[True]]
    worker.sent.clear()
    people.feed()
    assert [order[0].is_urgent for order in worker.sent] == [True, False]
