"""The HTTP API, served by uvicorn until it is stopped."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from producer.api.app import make_app
from producer.backend.connection import Connection
from producer.backend.ports import listen


def serve(connection: Connection, address: str, port: int, on_ready: Callable[[], None]) -> None:
    """Answer until interrupted; then requests under way are finished, for some seconds.

    `on_ready` is called when requests are answered.

    Raises:
        PortError: the port cannot be used.
    """
    # It raises the signal that ended it once more, when all is done.
    with listen(address, port) as listening, suppress(KeyboardInterrupt):
        config = uvicorn.Config(
            make_app(connection, connection.settings.api_key.reveal()),
            log_level="warning",
            timeout_graceful_shutdown=10,
            server_header=False,
        )
        _Server(config, on_ready).run([listening])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()
