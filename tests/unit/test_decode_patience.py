"""A busy machine: what a decode process spends waiting for a core is not its image's time."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import until

from worker.images.decoder import DecodeRequest
from worker.images.isolated import member as member_module
from worker.images.isolated.member import MAX_DEADLINES, Member
from worker.images.isolated.run_queue import waited_s
from worker.images.isolated.wire import PAUSED_S, Progress

SPIN = """
import os, time
os.sched_setaffinity(0, {%d})
end = time.monotonic() + 20
while time.monotonic() < end: pass
"""


def spinner(core: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SPIN % core])


@pytest.mark.skipif(sys.platform != "linux", reason="Linux' scheduler")
def test_a_process_that_shares_its_core_is_seen_to_wait() -> None:
    core = min(os.sched_getaffinity(0))
    with spinner(core) as first, spinner(core) as second:
        try:
            until(lambda: waited_s(first.pid) > 0.1 and waited_s(second.pid) > 0.1)
        finally:
            first.kill()
            second.kill()


def test_of_a_process_that_has_ended_nothing_is_known() -> None:
    assert waited_s(2**22 + 1) == 0.0


class Busy:
    """A process with one image, and a scheduler that makes it wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.progress = Progress(100.0, 1, 0)
        self.waited_s = 7.0
        monkeypatch.setattr(member_module, "waited_s", lambda _pid: self.waited_s)
        shared = SimpleNamespace(progress=lambda: self.progress)
        handles: Any = SimpleNamespace(shared=shared, pid=1, send=lambda *_: None)
        self.member = Member(handles, urgent_only=False, clock=lambda: 0.0)
        self.member.send([DecodeRequest(lambda _: None, path=b"/a.jpg")])


def test_time_without_a_core_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = Busy(monkeypatch)
    assert busy.member.at_it_s(101.0) == 1.0
    busy.waited_s += 6.0
    assert busy.member.at_it_s(110.0) == 4.0
    # The next image begins anew.
    busy.member.send([DecodeRequest(lambda _: None, path=b"/b.jpg")])
    busy.progress = Progress(110.0, 2, 0)
    assert busy.member.at_it_s(112.0) == 2.0


def test_patience_with_a_busy_machine_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = Busy(monkeypatch)
    assert busy.member.at_it_s(100.0) == 0.0
    busy.waited_s += 30.0
    assert busy.member.at_it_s(130.0) == 30.0 / MAX_DEADLINES


def test_who_waits_for_others_has_longer_than_they_may_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    busy = Busy(monkeypatch)
    busy.progress = Progress(PAUSED_S, 1, 0)
    assert busy.member.at_it_s(MAX_DEADLINES + 1.0) == 1.0
    assert not busy.member.is_at_work


def test_who_does_not_take_its_order_is_late_and_its_image_is_not_at_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    busy = Busy(monkeypatch)
    busy.progress = Progress(0.0, 0, 0)
    assert busy.member.at_it_s(20.0) == 20.0
    assert not busy.member.is_at_work


def test_who_has_no_order_is_not_late(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = Busy(monkeypatch)
    busy.member._orders.clear()
    assert busy.member.at_it_s(1000.0) == 0.0
