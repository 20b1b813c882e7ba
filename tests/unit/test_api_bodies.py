"""Bodies of requests: complete, in time and within bounds, or refused; nothing is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from producer.api import bodies as bodies_module
from producer.api.bodies import MEMORY_BYTES, OWN_MEMORY_BYTES, Bodies, HungUpError
from producer.api.byte_semaphore import ByteSemaphore
from producer.api.errors import RefusedError

pytestmark = pytest.mark.fast

MB = 2**20


class Client:
    """Sends pieces, then falls silent or hangs up."""

    def __init__(self, *pieces: bytes, ends: bool = True, hangs_up: bool = False) -> None:
        self._pieces: Iterator[bytes] = iter(pieces)
        self._left = len(pieces)
        self._ends = ends
        self._hangs_up = hangs_up

    async def __call__(self) -> dict[str, Any]:
        if not self._left:
            if not self._hangs_up:
                await asyncio.Event().wait()
            return {"type": "http.disconnect"}
        self._left -= 1
        more = bool(self._left) or not self._ends
        return {"type": "http.request", "body": next(self._pieces), "more_body": more}


async def replay(bodies: Bodies, client: Client, most_bytes: int = 64 * MB) -> bytes:
    async with bodies.read(client, most_bytes) as body:
        receive, found = bodies.replayed(body, client), b""
        while (message := await receive())["more_body"]:
            found += message["body"]
        return found


def refusal(do: Callable[[], Awaitable[object]]) -> int:
    with pytest.raises(RefusedError) as caught:
        asyncio.run(do())  # type: ignore[arg-type]
    return caught.value.status


def is_empty(bodies: Bodies) -> bool:
    return not (bodies._bytes or bodies._in_memory_bytes or bodies._unfinished)


@pytest.mark.parametrize("count", [1, 3, 40])
def test_a_body_comes_as_it_was_sent(count: int) -> None:
    pieces = [bytes([number]) * (OWN_MEMORY_BYTES // 4) for number in range(count)]
    bodies = Bodies()
    assert asyncio.run(replay(bodies, Client(*pieces))) == b"".join(pieces)
    assert is_empty(bodies)


def test_what_is_too_large_for_memory_is_in_files() -> None:
    async def read() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(30):
                group.create_task(hold())
            await asyncio.sleep(0)
            await asyncio.wait_for(held.acquire(), 60)
            for _ in range(29):
                await held.acquire()
            assert bodies._bytes == 30 * MB
            assert bodies._in_memory_bytes <= MEMORY_BYTES
            done.set()

    async def hold() -> None:
        async with bodies.read(Client(b"x" * MB), MB):
            held.release()
            await done.wait()

    bodies, held, done = Bodies(), asyncio.Semaphore(0), asyncio.Event()
    asyncio.run(read())
    assert is_empty(bodies)


def test_who_falls_silent_or_sends_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies_module, "SILENT_S", 0.01)
    bodies = Bodies()
    assert refusal(lambda: replay(bodies, Client(b"half", ends=False))) == 408
    assert refusal(lambda: replay(bodies, Client(b"x" * 9), most_bytes=8)) == 413
    with pytest.raises(HungUpError):
        asyncio.run(replay(bodies, Client(b"half", ends=False, hangs_up=True)))
    assert is_empty(bodies)


def test_who_sends_drop_by_drop_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies_module, "SLOW_AFTER_S", 0.05)

    class Dripping(Client):
        async def __call__(self) -> dict[str, Any]:
            await asyncio.sleep(0.01)
            return {"type": "http.request", "body": b"x", "more_body": True}

    assert refusal(lambda: replay(Bodies(), Dripping())) == 408


def test_where_room_is_short_the_silent_make_way(monkeypatch: pytest.MonkeyPatch) -> None:
    async def both() -> bytes:
        silent = asyncio.create_task(replay(bodies, Client(b"x" * 60, ends=False)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        found = await replay(bodies, Client(b"y" * 60))
        with pytest.raises(RefusedError) as caught:
            await silent
        assert caught.value.status == 408
        return found

    monkeypatch.setattr(bodies_module, "_IDLE_S", 0.0)
    bodies = Bodies(unfinished_bytes=100)
    assert asyncio.run(both()) == b"y" * 60
    monkeypatch.setattr(bodies_module, "_IDLE_S", 60.0)
    assert refusal(lambda: replay(bodies, Client(b"y" * 101))) == 429
    assert is_empty(bodies)


def test_bytes_are_held_in_turn_and_may_be_released_early() -> None:
    async def use() -> list[str]:
        semaphore, order = ByteSemaphore(10), []

        async def hold(name: str, size: int) -> None:
            async with semaphore.holding(size):
                order.append(name)

        async with semaphore.holding(6) as release:
            # What is larger than all waits until it is alone, and others stay behind it.
            tasks = [
                asyncio.create_task(hold(name, size))
                for name, size in (("large", 99), ("small", 1))
            ]
            gone = asyncio.create_task(hold("gone", 1))
            await asyncio.sleep(0)
            gone.cancel()
            assert not order
            release()
            release()
            await asyncio.gather(*tasks)
        assert semaphore._free == 10
        return order

    assert asyncio.run(use()) == ["large", "small"]
