"""Who may run beside whom."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from worker.quarantine import Quarantine


def test_many_run_together_and_one_alone() -> None:
    quarantine, lock = Quarantine(), threading.Lock()
    inside: list[str] = []
    seen: set[tuple[str, ...]] = set()

    def visit(kind: str) -> None:
        with quarantine.alone() if kind == "alone" else quarantine.together():
            with lock:
                inside.append(kind)
                seen.add(tuple(sorted(inside)))
            time.sleep(0.01)
            with lock:
                inside.remove(kind)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(visit, ["together", "together", "alone", "together"] * 8))
    assert ("together", "together") in seen
    assert ("alone",) in seen
    assert all(len(group) == 1 for group in seen if "alone" in group)


def test_who_waits_to_be_alone_is_not_passed_by() -> None:
    quarantine, order = Quarantine(), list[str]()
    first_in, may_go = threading.Event(), threading.Event()

    def first() -> None:
        with quarantine.together():
            first_in.set()
            may_go.wait(5)

    def alone() -> None:
        with quarantine.alone():
            order.append("alone")

    def later() -> None:
        with quarantine.together():
            order.append("together")

    with ThreadPoolExecutor(3) as pool:
        pool.submit(first)
        first_in.wait(5)
        pool.submit(alone)
        time.sleep(0.1)
        pool.submit(later)
        time.sleep(0.1)
        assert order == []
        may_go.set()
    assert order == ["alone", "together"]


def test_an_error_lets_the_others_in() -> None:
    quarantine = Quarantine()
    for enter in (quarantine.alone, quarantine.together):
        with pytest.raises(KeyError), enter():
            raise KeyError
    with quarantine.alone():
        pass
