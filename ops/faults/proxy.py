"""A network between a worker and Redis that can be cut: a TCP proxy in threads."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Final

_PIECE: Final = 65_536
# How often a cut line is looked at.
_PAUSE_S: Final = 0.05


class Proxy:
    """Forwards connections to a port of this machine, except while it is cut.

    While it is cut nothing passes, and new connections get no answer; when it is mended, those that
    were cut are reset, as after a router has forgotten them.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: Final[int] = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._open = threading.Event()
        self._open.set()
        self._lines: set[socket.socket] = set()
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
            _reset(line)

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
        with self._lock:
            self._lines |= {near, far}
        for one, other in ((near, far), (far, near)):
            threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(_PIECE):
                # What arrives meanwhile is as good as lost: the line will be reset.
                self._open.wait()
                sink.sendall(piece)
        for line in (source, sink):
            with self._lock:
                self._lines.discard(line)
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
            line.close()


def _reset(line: socket.socket) -> None:
    with suppress(OSError):
        # Wakes a thread that reads from it, too.
        line.shutdown(socket.SHUT_RDWR)
    line.close()
