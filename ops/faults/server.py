"""A Redis that writes an append-only file, and can be killed and come back with all it held."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Final, Self

import redis

from worker.contract.embedded import server_program
from worker.contract.processes import start_child, stop_child

_START_TIMEOUT_S: Final = 20.0
_GRACE_S: Final = 10.0


class Server:
    """A Redis on a free port of this machine, its file in `directory`; it runs within `with`."""

    def __init__(self, directory: Path) -> None:
        self.port: Final = free_port()
        self.url: Final = f"redis://127.0.0.1:{self.port}/0"
        self._directory = directory
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, with what its file holds, and wait until it answers.

        Raises:
            SystemExit: it does not.
        """
        words = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self._directory),
            "appendonly": "yes",
            "save": "",
        }
        with (self._directory / "redis.log").open("ab") as log:
            argv = [word for name, value in words.items() for word in (f"--{name}", value)]
            self._child = start_child(
                [server_program(), *argv], stdout=log, stderr=subprocess.STDOUT
            )
        ends_s = time.monotonic() + _START_TIMEOUT_S
        with redis.Redis.from_url(self.url) as client:
            while time.monotonic() < ends_s:
                try:
                    client.ping()
                except redis.RedisError:
                    time.sleep(0.02)
                else:
                    return
        msg = f"Redis did not start: see {self._directory / 'redis.log'}"
        raise SystemExit(msg)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop or kill it. What it has answered is in its file either way."""
        if self._child is None:
            return
        if how == signal.SIGKILL:
            self._child.kill()
        stop_child(self._child, _GRACE_S)
        self._child = None


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
