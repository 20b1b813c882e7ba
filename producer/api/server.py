"""The HTTP API, served by uvicorn until it is stopped."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import uvicorn

from producer.api.app import Api
from producer.api.gate import hosts_of
from producer.api.protocol import MOST_CONNECTIONS, Protocol
from producer.backend.connection import Connection
from producer.backend.ports import listen

# Requests under way are finished within this time, after which they are refused; and that is left
# to send those answers.
_GRACE_S: Final = 8.0
_LAST_S: Final = 3
# Files and connections beside those of clients.
_OTHER_FILES: Final = 512
# uvicorn says so of each stream that breaks off, as it is meant to, and of each request for another
# protocol, which is answered as if it had not asked.
_NO_NEWS: Final = (
    "ASGI callable returned without",
    "Unsupported upgrade request",
    "No supported WebSocket library",
)


def serve(connection: Connection, address: str, port: int, on_ready: Callable[[], None]) -> None:
    """Answer until interrupted; then requests under way are finished, for some seconds.

    `on_ready` is called when requests are answered.

    Raises:
        PortError: the port cannot be used.
    """
    settings = connection.settings
    api = Api(connection, settings.api_key.reveal(), hosts_of(address, settings.api_hosts))
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    Protocol.most_connections = _most_connections()
    # It raises the signal that ended it once more, when all is done.
    with listen(address, port) as listening, suppress(KeyboardInterrupt):
        config = uvicorn.Config(
            api,
            http=Protocol,
            ws="none",
            log_level="warning",
            timeout_graceful_shutdown=int(_GRACE_S) + _LAST_S,
            server_header=False,
        )
        _Server(config, api, on_ready).run([listening])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, api: Api, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._api = api
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._api.end_streams()
        timer = asyncio.get_running_loop().call_later(_GRACE_S, self._api.end_all)
        await super().shutdown(sockets)
        timer.cancel()


def _most_connections() -> int:
    """Return how many clients may be connected, after as many files as can be are allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return min(MOST_CONNECTIONS, max(64, soft - _OTHER_FILES))


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_NO_NEWS)
