"""Connections that are silent, or too many, come to an end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from producer.api import protocol
from producer.api.protocol import Protocol

pytestmark = pytest.mark.fast

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LONG_S = 60.0


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["path"] == "/endless":

        async def zeros() -> AsyncIterator[bytes]:
            while True:
                yield bytes(2**20)
                await asyncio.sleep(0)

        await StreamingResponse(zeros())(scope, receive, send)
        return
    await asyncio.sleep(0.1)
    await PlainTextResponse("here")(scope, receive, send)


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[int, ServerState]]:
    config, state = uvicorn.Config(app, http=Protocol, log_level="critical"), ServerState()
    config.load()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Protocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    try:
        yield server.sockets[0].getsockname()[1], state
    finally:
        server.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG_S):
        while not condition():  # noqa: ASYNC110 - what is waited for knows no event
            await asyncio.sleep(0.01)


async def answer(port: int, *pieces: bytes) -> bytes:
    """Send pieces; return all that comes until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0)
        return await asyncio.wait_for(reader.read(), LONG_S)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost:"])
def test_half_a_header_is_not_waited_for(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> None:
        async with listening() as (port, state):
            assert await answer(port, sent) == b""
            # A request that takes longer than its header may is answered; what comes after it is
            # not waited for either.
            found = await answer(port, REQUEST + b"GET")
            assert found.endswith(b"here")
            await asyncio.sleep(0)
            assert not state.connections

    monkeypatch.setattr(protocol, "HEADERS_S", 0.05)
    asyncio.run(ask())


def test_who_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> None:
        async with listening() as (port, state):
            _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
            writer.write(REQUEST.replace(b"/ ", b"/endless "))
            await until(lambda: bool(state.tasks))
            await until(lambda: not state.connections and not state.tasks)
            writer.close()

    monkeypatch.setattr(protocol, "UNREAD_S", 0.1)
    asyncio.run(ask())


@pytest.mark.parametrize("is_stuck", [True, False])
def test_who_does_not_read_is_not_waited_for_by_a_server_that_stops(
    monkeypatch: pytest.MonkeyPatch, *, is_stuck: bool
) -> None:
    async def ask() -> None:
        async with listening() as (port, state):
            _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
            writer.write(REQUEST.replace(b"/ ", b"/endless "))
            await until(lambda: bool(state.tasks))
            (connection,) = state.connections
            assert isinstance(connection, Protocol)
            if is_stuck:
                await until(lambda: connection._unread_timer is not None)
            connection.shutdown()
            await until(lambda: not state.connections and not state.tasks)
            writer.close()

    monkeypatch.setattr(protocol, "LAST_UNREAD_S", 0.1)
    asyncio.run(ask())


def test_what_is_replaced_of_uvicorn_is_there() -> None:
    ours = {name for name in vars(Protocol) if not name.startswith("_")}
    assert ours - {"most_connections"} <= set(dir(H11Protocol))


def test_one_connection_too_many_is_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> bytes:
        async with listening() as (port, state):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            await until(lambda: bool(state.connections))
            found = await answer(port, REQUEST)
            writer.close()
            return found

    monkeypatch.setattr(Protocol, "most_connections", 1)
    found = asyncio.run(ask())
    assert found.startswith(b"HTTP/1.1 503")
    assert b"retry-after: 1" in found
    assert b'"code":"busy"' in found
