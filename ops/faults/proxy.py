"""A network between a worker and Redis that can fail: a TCP proxy in threads."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Final

_PIECE: Final = 65_536


class Line:
    """A connection through the proxy: both its sockets, and whether anything passes."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.near = near
        self.far = far
        self.is_mute = False

    def reset(self) -> None:
        """End it for both sides."""
        for end in (self.near, self.far):
            _reset(end)


class Proxy:
    """Forwards connections to a port of this machine.

    While it is cut nothing passes, and new connections get no answer; when it is mended, those that
    were cut are reset, as after a router has forgotten them. Connections that it forgets stay open
    to the client for good, and nothing passes on them; new ones are served.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: Final[int] = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._open = threading.Event()
        self._open.set()
        self._lines: set[Line] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Let nothing pass from now on."""
        self._open.clear()

    def mend(self) -> None:
        """Reset what was cut, and let new connections pass."""
        with self._lock:
            lines, self._lines = self._lines, set()
        self._open.set()
        for line in lines:
            line.reset()

    def forget(self) -> int:
        """Let nothing pass any more on the connections that stand; return how many they are.

        The server sees them closed, the client sees nothing: as with a NAT or a load balancer that
        has dropped them from its table.
        """
        with self._lock:
            forgotten = [line for line in self._lines if not line.is_mute]
        for line in forgotten:
            line.is_mute = True
            _reset(line.far)
        return len(forgotten)

    def close(self) -> None:
        """Accept no more."""
        self._listener.close()
        self.mend()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        self._open.wait()
        try:
            far = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            _reset(near)
            return
        line = Line(near, far)
        with self._lock:
            self._lines.add(line)
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=self._pump, args=(line, source, sink), daemon=True).start()

    def _pump(self, line: Line, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(_PIECE):
                # What arrives meanwhile is as good as lost: the line will be reset.
                self._open.wait()
                if not line.is_mute:
                    sink.sendall(piece)
        if line.is_mute and source is line.far:
            # The client hears nothing; it ends the connection when it has had enough.
            return
        with self._lock:
            self._lines.discard(line)
        line.reset()


def _reset(end: socket.socket) -> None:
    with suppress(OSError):
        # Wakes a thread that reads from it, too.
        end.shutdown(socket.SHUT_RDWR)
    end.close()
