"""What is spent is never more than there is, and nobody waits for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from worker.budget import WeightedSemaphore


def test_no_more_is_spent_than_there_is() -> None:
    semaphore, lock = WeightedSemaphore(10), threading.Lock()
    spent = most = 0

    def spend(amount: int) -> None:
        nonlocal spent, most
        with semaphore.acquire(amount):
            with lock:
                spent += min(amount, 10)
                most = max(most, spent)
            time.sleep(0.002)
            with lock:
                spent -= min(amount, 10)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(spend, [3, 7, 1, 4, 10, 25, 2, 5] * 8))
    assert spent == 0
    assert 5 <= most <= 10


def test_a_large_one_is_not_passed_by(wait_until: Callable[..., None]) -> None:
    semaphore, order = WeightedSemaphore(4), list[str]()
    first = semaphore.acquire(3)
    first.__enter__()

    def spend(name: str, amount: int) -> None:
        with semaphore.acquire(amount):
            order.append(name)

    with ThreadPoolExecutor(2) as pool:
        # Each asks before the next does.
        pool.submit(spend, "large", 4)
        wait_until(lambda: semaphore._next_ticket == 2)
        pool.submit(spend, "small", 1)
        wait_until(lambda: semaphore._next_ticket == 3)
        assert order == []
        first.__exit__(None, None, None)
    assert order == ["large", "small"]
