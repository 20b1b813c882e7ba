"""Parts of fetching: addresses, slots, budget, threads, inflating."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from worker.contract.settings import Settings
from worker.errors import UnreadableError
from worker.images.fetch.addresses import PrivateAddressError, is_public, public_socket
from worker.images.fetch.daemon_threads import DaemonThreads
from worker.images.fetch.inflate import Inflater
from worker.images.fetch.limits import ByteBudget, HostSlots
from worker.images.fetch.slow_hosts import SlowHosts


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.255.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.0.1"),
        *("169.254.169.254", "100.64.0.1", "224.0.0.1", "239.1.1.1", "255.255.255.255"),
        *("240.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "192.0.0.1"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "2002:7f00:1::", "2002:a00:1::"),
        *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2001::1", "2001:db8::1"),
        *("100::1", "5f00::1", "localhost", "127.1", "", "0x7f.0.0.1", "a.example"),
    ],
)
def test_what_is_not_of_the_public_internet_is_private(host: str) -> None:
    assert not is_public(host)
    with pytest.raises(PrivateAddressError):
        public_socket((2, 1, 6, "", (host, 80)))


@pytest.mark.parametrize(
    "host",
    [
        *("1.1.1.1", "93.184.216.34", "172.32.0.1", "100.128.0.1", "2606:4700::1111"),
        *("::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::"),
    ],
)
def test_public_addresses_are_public(host: str) -> None:
    assert is_public(host)


def run(body: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(body, 60))


async def settled() -> None:
    """Let every task run until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_host_has_its_slots_and_no_more() -> None:
    async def body() -> None:
        slots, begun, go = HostSlots(3, 2), list[str](), asyncio.Event()

        async def use(host: str) -> None:
            async with slots.hold(host):
                begun.append(host)
                await go.wait()

        tasks = [asyncio.create_task(use(host)) for host in ("a", "a", "a", "a", "b", "c")]
        await settled()
        assert begun == ["a", "a", "b"]
        # Who stops waiting leaves nothing taken.
        tasks[2].cancel()
        tasks[5].cancel()
        await settled()
        go.set()
        await asyncio.wait(tasks)
        assert begun == ["a", "a", "b", "a"]
        assert (slots._hosts, slots._users, slots._total._value) == ({}, {}, 3)

    run(body())


def test_a_budget_is_given_in_the_order_of_asking() -> None:
    async def body() -> None:
        budget, got = ByteBudget(10), list[int]()

        async def take(size_bytes: int) -> None:
            await budget.take(size_bytes)
            got.append(size_bytes)

        tasks = [asyncio.create_task(take(size)) for size in (6, 5, 1, 9)]
        await settled()
        assert got == [6]
        # The second gives up: the third has room, the fourth has not.
        tasks[1].cancel()
        await settled()
        assert got == [6, 1]
        budget.give_back(6)
        await settled()
        assert got == [6, 1, 9]

    run(body())


def test_a_call_that_never_ends_keeps_its_thread_and_nobody_waiting() -> None:
    async def body() -> None:
        threads, stuck = DaemonThreads("test", 2, 1), threading.Event()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(threads.call("a", stuck.wait), 0.05)
        # Its host has no other thread; all others have.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(threads.call("a", int), 0.05)
        assert await threads.call("b", lambda: 1) == 1
        with pytest.raises(ZeroDivisionError):
            await threads.call("b", lambda: 1 // 0)
        stuck.set()
        assert await threads.call("a", lambda: 2) == 2
        threads.stop()

    run(body())


def test_a_host_that_lets_many_wait_has_less_time_until_it_answers() -> None:
    now_s = 0.0
    hosts = SlowHosts(30, lambda: now_s)
    for _ in range(4):
        assert hosts.deadline_s("a") == 30
        hosts.note_late("a")
    assert (hosts.deadline_s("a"), hosts.deadline_s("b")) == (3, 30)
    hosts.note_answer("a")
    assert not hosts.is_slow("a")
    for _ in range(99):
        hosts.note_late("a")
    hosts.note_answer("a")
    assert hosts.is_slow("a")
    now_s = 301
    assert not hosts.is_slow("a")


def test_inflated_pieces_are_small_and_none_is_lost() -> None:
    data, inflater = bytes(3_000_000), Inflater()
    packed = gzip.compress(data)
    pieces = [piece for byte in (packed[:99], packed[99:]) for piece in inflater.feed(byte)]
    assert max(map(len, pieces)) <= 256 * 1024
    assert b"".join(pieces) + inflater.end() == data
    with pytest.raises(UnreadableError, match="after its end"):
        list(inflater.feed(b"x"))


def test_a_fetch_ends_before_its_worker_counts_as_hung() -> None:
    assert Settings().fetch_deadline_s == 30
    assert Settings().urgent_fetch_deadline_s == 10
    short = Settings(stall_timeout_s=10, fetch_timeout_s=100)
    assert (short.fetch_deadline_s, short.urgent_fetch_deadline_s) == (5, 5)
