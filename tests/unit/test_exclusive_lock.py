"""Who may run beside whom."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import PATIENCE_S

from worker.service.exclusive_lock import ExclusiveLock


def test_many_run_together() -> None:
    exclusive_lock, meet = ExclusiveLock(), threading.Barrier(3)

    def visit() -> None:
        with exclusive_lock.together():
            meet.wait(PATIENCE_S)

    with ThreadPoolExecutor(3) as pool:
        for visited in [pool.submit(visit) for _ in range(3)]:
            visited.result(PATIENCE_S)


def test_whoever_is_alone_is_beside_nobody() -> None:
    exclusive_lock, lock = ExclusiveLock(), threading.Lock()
    inside: list[str] = []
    seen: set[tuple[str, ...]] = set()

    def visit(kind: str) -> None:
        with exclusive_lock.alone() if kind == "alone" else exclusive_lock.together():
            with lock:
                inside.append(kind)
                seen.add(tuple(sorted(inside)))
            time.sleep(0.01)
            with lock:
                inside.remove(kind)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(visit, ["together", "together", "alone", "together"] * 8))
    assert ("alone",) in seen
    assert all(len(group) == 1 for group in seen if "alone" in group)


def test_who_waits_to_be_alone_is_not_passed_by(wait_until: Callable[..., None]) -> None:
    exclusive_lock, order = ExclusiveLock(), list[str]()
    first_in, may_go, comes = (threading.Event() for _ in range(3))

    def first() -> None:
        with exclusive_lock.together():
            first_in.set()
            may_go.wait(PATIENCE_S)

    def alone() -> None:
        with exclusive_lock.alone():
            order.append("alone")

    def later() -> None:
        comes.set()
        with exclusive_lock.together():
            order.append("together")

    with ThreadPoolExecutor(3) as pool:
        pool.submit(first)
        assert first_in.wait(PATIENCE_S)
        pool.submit(alone)
        wait_until(lambda: exclusive_lock._waiting == 1)
        pool.submit(later)
        assert comes.wait(PATIENCE_S)
        # Long enough to pass by, if it could.
        time.sleep(0.1)
        assert order == []
        may_go.set()
    assert order == ["alone", "together"]


def test_an_error_lets_the_others_in() -> None:
    exclusive_lock = ExclusiveLock()
    for enter in (exclusive_lock.alone, exclusive_lock.together):
        with pytest.raises(KeyError), enter():
            raise KeyError
    with exclusive_lock.alone():
        pass
