"""A Redis that writes an append-only file, and can be killed, frozen, or made to refuse."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import redis

from worker.contract.local.redis_server import server_program
from worker.contract.local.subprocesses import start_child, stop_child

_START_TIMEOUT_S: Final = 60.0
_GRACE_S: Final = 10.0
_PAUSE_S: Final = 0.02
_SNAPSHOT: Final = "dump.rdb"
# Nobody listens there: a master that is never found.
_NO_PORT: Final = 1


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

    def start(self, *, load_delay_us: int = 0) -> None:
        """Start it, with what its file holds, and wait until it answers.

        With a delay for each key it answers LOADING for a while: see `await_loaded`.

        Raises:
            SystemExit: it does not answer.
        """
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self._directory),
            "appendonly": "yes",
            # Never by itself; but with a rule a failed snapshot makes it refuse to write.
            "save": "86400 1000000",
            "dbfilename": _SNAPSHOT,
        }
        if load_delay_us:
            options["key-load-delay"] = str(load_delay_us)
        with (self._directory / "redis.log").open("ab") as log:
            argv = [word for name, value in options.items() for word in (f"--{name}", value)]
            self._child = start_child(
                [server_program(), *argv], stdout=log, stderr=subprocess.STDOUT
            )
        if not load_delay_us:
            self.await_loaded()

    def await_loaded(self) -> None:
        """Wait until it has read its file and answers.

        Raises:
            SystemExit: it does not.
        """
        ends_s = time.monotonic() + _START_TIMEOUT_S
        with self._client() as client:
            while time.monotonic() < ends_s:
                try:
                    client.ping()
                except redis.RedisError:
                    time.sleep(_PAUSE_S)
                else:
                    return
        msg = f"Redis did not start: see {self._directory / 'redis.log'}"
        raise SystemExit(msg)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop or kill it. What it has answered is in its file either way."""
        if self._child is None:
            return
        # One that is frozen ends when it runs again.
        self._child.send_signal(signal.SIGCONT)
        if how == signal.SIGKILL:
            self._child.kill()
        stop_child(self._child, _GRACE_S)
        self._child = None

    def freeze(self) -> None:
        """Let it stand still: connections are accepted by the kernel, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def refuse(self, code: str) -> None:
        """Let it refuse to write: READONLY, OOM, MISCONF or NOPERM."""
        with self._client() as client:
            if code == "READONLY":
                # Commands that wait end with UNBLOCKED.
                client.replicaof("127.0.0.1", str(_NO_PORT))
            elif code == "OOM":
                client.config_set("maxmemory", "1mb")
            elif code == "NOPERM":
                client.acl_setuser("default", enabled=True, categories=["-@write"])
            else:
                # A snapshot that cannot be given its name.
                self._snapshot.unlink(missing_ok=True)
                self._snapshot.mkdir()
                self._save(client)

    def accept(self, code: str) -> None:
        """End that."""
        with self._client() as client:
            if code == "READONLY":
                client.replicaof("NO", "ONE")
            elif code == "OOM":
                client.config_set("maxmemory", "0")
            elif code == "NOPERM":
                client.acl_setuser("default", enabled=True, categories=["+@all"])
            else:
                shutil.rmtree(self._snapshot, ignore_errors=True)
                self._save(client)

    @property
    def _snapshot(self) -> Path:
        return self._directory / _SNAPSHOT

    def _save(self, client: Any) -> None:
        """Take a snapshot, and wait until that has worked or not."""
        client.bgsave()
        ends_s = time.monotonic() + _START_TIMEOUT_S
        while client.info("persistence")["rdb_bgsave_in_progress"] and time.monotonic() < ends_s:
            time.sleep(_PAUSE_S)

    @contextmanager
    def _client(self) -> Iterator[redis.Redis]:
        with redis.Redis.from_url(self.url) as client:
            yield client

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None:
            self._child.send_signal(number)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
