"""Pixels in memory at once: how many locks an image takes, and who goes first."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from worker.images.decoder import DecodeRequest
from worker.images.isolated.pixel_locks import LOCKS, PixelLocks, PixelsTakenError
from worker.images.isolated.staff import PASSED_S, Staff

MAX_PIXELS = 64_000_000
HOLD = """
import fcntl, sys
for lock in range({first}, 64):
    fcntl.lockf({handle}, fcntl.LOCK_EX, 1, lock)
print("held", flush=True)
sys.stdin.read()
"""


class Locks:
    """The locks of one process of several."""

    def __init__(self, processes: int) -> None:
        self.handle = os.memfd_create("locks")
        self.held: list[int] = []
        self.locks = PixelLocks(
            self.handle, MAX_PIXELS, processes, self.waited, self.waited, self.hold
        )

    def hold(self, locks: int) -> None:
        self.held.append(locks)

    def waited(self) -> None:
        self.held.append(-1)

    def of(self, pixels: int) -> int:
        """Return how many locks an image of so many pixels takes."""
        self.held.clear()
        with self.locks.acquire(pixels):
            pass
        return max(self.held, default=0)


@contextmanager
def others_hold(locks: Locks, first: int) -> Iterator[subprocess.Popen[bytes]]:
    """Let another process hold all locks from one on."""
    code = HOLD.format(first=first, handle=locks.handle)
    with subprocess.Popen(
        [sys.executable, "-c", code],
        pass_fds=[locks.handle],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        yield child
        child.kill()


@pytest.mark.parametrize(
    ("pixels", "wanted"),
    [(1_000_000, 0), (1_000_001, 2), (12_000_000, 12), (63_000_001, 64), (64_000_000, 64)],
)
def test_an_image_takes_as_many_locks_as_it_has_parts(pixels: int, wanted: int) -> None:
    assert Locks(processes=16).of(pixels) == wanted


def test_sixteen_processes_decode_photographs_at_once() -> None:
    # Of 12 million pixels, with the default limit of 200 million.
    parts = -(-12_000_000 // (200_000_000 // LOCKS))
    assert 16 * parts <= LOCKS


def test_what_lacks_locks_is_put_back_or_waits() -> None:
    locks = Locks(processes=16)
    with others_hold(locks, 4) as other:
        locks.locks.waits = False
        assert locks.of(4_000_000) == 4
        with pytest.raises(PixelsTakenError) as raised:
            locks.of(5_000_000)
        assert raised.value.locks == 5
        assert locks.held == [0]
        locks.locks.waits = True
        # It takes those that are free, then waits.
        locks.locks._on_wait = other.kill
        assert locks.of(64_000_000) == 64


def request(locks: int, put_back_at_s: float = 0.0) -> DecodeRequest:
    made = DecodeRequest(lambda _: None, path=b"/a.jpg")
    made.locks, made.put_back_at_s = locks, put_back_at_s
    return made


class Process:
    """A decode process that keeps what it is sent."""

    def __init__(self, locks: int = 0) -> None:
        self.urgent_only = False
        self.sent: list[DecodeRequest] = []
        self._holds = locks

    @property
    def orders(self) -> int:
        return len(self.sent) + bool(self._holds)

    @property
    def locks(self) -> int:
        return max(self._holds, sum(one.locks for one in self.sent))

    @property
    def may_wait(self) -> bool:
        return any(one.locks for one in self.sent)

    def send(self, requests: list[DecodeRequest]) -> None:
        self.sent += requests


def staff(now_s: float, *processes: Process) -> Staff:
    made: Any = Staff(lambda: now_s)
    made.members = [*processes]
    found: Staff = made
    return found


def test_what_fits_passes_what_does_not() -> None:
    busy, free = Process(locks=40), Process()
    people = staff(1.0, busy, free)
    huge, smaller = request(LOCKS), request(24)
    for one in (huge, smaller):
        people.waiting.put_back(one, 0.0)
    people.feed()
    assert free.sent == [smaller]
    assert [*people.waiting.large] == [huge]


def test_who_was_passed_for_long_is_the_next_and_the_only_one_that_waits() -> None:
    busy, first, second = Process(locks=40), Process(), Process()
    people = staff(PASSED_S + 1, busy, first, second)
    huge = [request(LOCKS), request(LOCKS)]
    for one in huge:
        people.waiting.put_back(one, 0.0)
    people.feed()
    assert first.sent + second.sent == huge[:1]


def test_all_that_fit_are_decoded_at_once() -> None:
    processes = [Process() for _ in range(16)]
    people = staff(0.0, *processes)
    for _ in range(16):
        people.waiting.put_back(request(4), 0.0)
    people.feed()
    assert [len(one.sent) for one in processes] == [1] * 16
