"""One connection of a client: how long it may stay silent, and how many there may be.

uvicorn's own waits without end for the rest of a header, and for a client that does not read.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Final

from fastapi import Response
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from producer.api.errors import answer

MOST_CONNECTIONS: Final = 4096
# Of a connection so many bytes are read before it is the turn of the next.
READ_BYTES: Final = 64 * 1024
# A request line with its headers comes within this time, once a connection is there.
HEADERS_S: Final = 15.0
# A client that has not read anything for so long is cut off.
UNREAD_S: Final = 120.0
# The same, once the server stops.
LAST_UNREAD_S: Final = 1.0
# What was sent must be acknowledged in this time; a silent client is asked whether it is there.
_OPTIONS: Final = {
    name: value
    for name, value in {
        "TCP_KEEPIDLE": 60,
        "TCP_KEEPINTVL": 15,
        "TCP_KEEPCNT": 4,
        "TCP_USER_TIMEOUT": int(1000 * UNREAD_S),
    }.items()
    if hasattr(socket, name)
}


class Protocol(H11Protocol):
    """uvicorn's own with an end to all waiting."""

    most_connections = MOST_CONNECTIONS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._headers_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._unread_s = UNREAD_S

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection in, or tell its client that there are too many."""
        super().connection_made(transport)
        # asyncio reads four times as much at once: with hundreds of uploads all others wait longer.
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]
        _set_options(transport)
        if len(self.connections) > self.most_connections:
            response = answer(503, "busy", "too many connections; try again")
            transport.write(_whole(b"503 Service Unavailable", response))
            transport.close()
            return
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        """Take in what a client has sent."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._is_answering:
            self._stop_awaiting()
        elif self._headers_timer is None:
            self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        self._stop_awaiting()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Begin to wait for a client that does not read."""
        super().pause_writing()
        self._await_reading()

    def resume_writing(self) -> None:
        """Go on: it has read, or is gone."""
        self._stop_awaiting_reading()
        super().resume_writing()

    def shutdown(self) -> None:
        """End after this request; who does not read any more is not waited for."""
        super().shutdown()
        self._unread_s = LAST_UNREAD_S
        if self._unread_timer is not None:
            self._stop_awaiting_reading()
            self._await_reading()

    def send_400_response(self, msg: str) -> None:
        """Say that this is no HTTP, unless an answer is on its way, and end the connection."""
        if not (self._is_answering and self.cycle.response_started):
            self.transport.write(_whole(b"400 Bad Request", answer(400, "bad_request", msg)))
        self.transport.close()

    def _await_reading(self) -> None:
        self._unread_timer = self.loop.call_later(self._unread_s, self.transport.abort)

    def _stop_awaiting_reading(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def _await_headers(self) -> None:
        self._headers_timer = self.loop.call_later(HEADERS_S, self._end)

    def _stop_awaiting(self) -> None:
        if self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None

    def _end(self) -> None:
        self._headers_timer = None
        if not self._is_answering:
            self.transport.abort()

    @property
    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete


def _set_options(transport: asyncio.Transport) -> None:
    found = transport.get_extra_info("socket")
    if found is None or found.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _OPTIONS.items():
        found.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _whole(status: bytes, response: Response) -> bytes:
    """Return an answer as it is sent, after which the connection is closed."""
    lines = [b"HTTP/1.1 " + status, b"connection: close"]
    lines += [name + b": " + value for name, value in response.raw_headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + bytes(response.body)
