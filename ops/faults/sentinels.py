"""Three sentinels, a master and its replicas on free ports of this machine, within `with`."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self

import redis
from server import free_port

from worker.contract.local.redis_server import server_program
from worker.contract.local.subprocesses import start_child, stop_child

NAME: Final = "tagging"
SENTINELS: Final = 3
# A master that is silent for so long is replaced.
DOWN_AFTER_MS: Final = 1000
_HERE: Final = "127.0.0.1"
_START_TIMEOUT_S: Final = 60.0
_FAILOVER_TIMEOUT_S: Final = 90.0
_GRACE_S: Final = 10.0
_PAUSE_S: Final = 0.05


class Service:
    """A service that fails over. With passwords, servers and sentinels have one each."""

    def __init__(
        self,
        directory: Path,
        *,
        replicas: int = 1,
        password: str = "",
        sentinel_password: str = "",
        options: dict[str, str] | None = None,
        tls: Path | None = None,
        program: str = "",
    ) -> None:
        """Take how it is set up; `tls` is a directory with ca.pem, cert.pem and key.pem."""
        self._directory = directory
        self._password = password
        self._sentinel_password = sentinel_password
        self._options = options or {}
        self._tls = tls
        self._program = program or server_program()
        self.ports: Final = [free_port() for _ in range(1 + replicas)]
        self.sentinel_ports: Final = [free_port() for _ in range(SENTINELS)]
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        """The URL of the service, without the sentinels' password."""
        login = f":{self._password}@" if self._password else ""
        places = ",".join(f"{_HERE}:{port}" for port in self.sentinel_ports)
        scheme = "sentinels" if self._tls else "sentinel"
        return f"{scheme}://{login}{places}/0?service={NAME}"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._stop)
            first, *others = self.ports
            for port in self.ports:
                self._start(port, first if port in others else None)
            self._until(lambda: all(map(self._answers, self.ports)), _START_TIMEOUT_S)
            for port in self.sentinel_ports:
                self._start_sentinel(port, first)
            # Each knows the others and the replicas.
            self._until(self._is_whole, _START_TIMEOUT_S)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def client(self, port: int) -> redis.Redis:
        """Return a client of one of the servers."""
        return self._client(port, self._password)

    def master(self) -> int:
        """Return the port of the master, by the first sentinel that answers; 0 if none does."""
        for port in self.sentinel_ports:
            try:
                with self._sentinel(port) as one:
                    found: Any = one.sentinel_get_master_addr_by_name(NAME)
                    return int(found[1]) if found else 0
            except redis.RedisError:
                continue
        return 0

    def kill_master(self) -> int:
        """Kill the master, wait until another one has its place; return the port of the old one."""
        old = self.master()
        child = self._children.pop(old)
        child.send_signal(signal.SIGKILL)
        child.wait(_GRACE_S)
        self._until(lambda: self.master() not in {0, old}, _FAILOVER_TIMEOUT_S)
        return old

    def fail_over(self) -> int:
        """Let the sentinels choose another master, while the old one goes on; return its port."""
        old = self.master()
        self._until(self._begins_failover, _FAILOVER_TIMEOUT_S)
        self._until(lambda: self.master() not in {0, old}, _FAILOVER_TIMEOUT_S)
        return old

    def restart(self, port: int) -> None:
        """Start a server that was killed, and let it follow the master."""
        self._start(port, self.master())

    def await_replicas(self) -> None:
        """Wait until the master has all its replicas, and the sentinels know that."""
        self._until(self._is_whole, _FAILOVER_TIMEOUT_S)

    def _begins_failover(self) -> bool:
        """Whether a sentinel has begun; it refuses while it is not sure of a replica."""
        try:
            with self._sentinel(self.sentinel_ports[0]) as one:
                one.sentinel_failover(NAME)
        except redis.ResponseError:
            return False
        return True

    def _is_whole(self) -> bool:
        try:
            with self.client(self.master()) as one:
                about: Any = one.info("replication")
            states = [state["state"] for state in about.values() if isinstance(state, dict)]
            return states == ["online"] * (len(self.ports) - 1) and all(
                map(self._knows_all, self.sentinel_ports)
            )
        except redis.RedisError:
            return False

    def _knows_all(self, port: int) -> bool:
        with self._sentinel(port) as one:
            state: Any = one.sentinel_master(NAME)
            replicas: Any = one.sentinel_slaves(NAME)
        links = [each["master-link-status"] for each in replicas if not each["is_sdown"]]
        return (
            state["num-other-sentinels"] == SENTINELS - 1
            and state["is_master"]
            and not state["is_sdown"]
            and not state["is_odown"]
            and links.count("ok") >= len(self.ports) - 1
        )

    def _start(self, port: int, master: int | None) -> None:
        directory = self._directory / str(port)
        directory.mkdir(exist_ok=True)
        options = {
            "bind": _HERE,
            **self._listening(port),
            "dir": str(directory),
            "appendonly": "yes",
            "save": "",
            "repl-diskless-sync-delay": "0",
            **self._options,
        }
        if self._password:
            options |= {"requirepass": self._password, "masterauth": self._password}
        if master is not None:
            options["replicaof"] = f"{_HERE} {master}"
        lines = [f"{name} {value or chr(34) * 2}" for name, value in options.items()]
        self._run(port, directory / "redis.conf", lines)

    def _start_sentinel(self, port: int, master: int) -> None:
        directory = self._directory / f"sentinel-{port}"
        directory.mkdir()
        lines = [
            *(f"bind {_HERE}", f"dir {directory}"),
            *(f"{name} {value}" for name, value in self._listening(port).items()),
            f"sentinel monitor {NAME} {_HERE} {master} {SENTINELS // 2 + 1}",
            f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {NAME} 6000",
        ]
        if self._password:
            lines.append(f"sentinel auth-pass {NAME} {self._password}")
        if self._sentinel_password:
            lines.append(f"requirepass {self._sentinel_password}")
        self._run(port, directory / "sentinel.conf", lines, "--sentinel")

    def _listening(self, port: int) -> dict[str, str]:
        if not self._tls:
            return {"port": str(port)}
        files = {"ca-cert": "ca.pem", "cert": "cert.pem", "key": "key.pem"}
        return {
            "port": "0",
            "tls-port": str(port),
            "tls-replication": "yes",
            "tls-auth-clients": "no",
            **{f"tls-{name}-file": str(self._tls / file) for name, file in files.items()},
        }

    def _run(self, port: int, config: Path, lines: list[str], *options: str) -> None:
        # A server writes into it what the sentinels tell it.
        config.write_text("\n".join(lines) + "\n", encoding="utf-8")
        with (config.parent / "log").open("ab") as log:
            self._children[port] = start_child(
                [self._program, str(config), *options], stdout=log, stderr=subprocess.STDOUT
            )

    def _sentinel(self, port: int) -> redis.Redis:
        return self._client(port, self._sentinel_password)

    def _client(self, port: int, password: str) -> redis.Redis:
        tls: dict[str, Any] = (
            {"ssl": True, "ssl_ca_certs": str(self._tls / "ca.pem")} if self._tls else {}
        )
        return redis.Redis(
            host=_HERE, port=port, password=password or None, socket_timeout=5, **tls
        )

    def _answers(self, port: int) -> bool:
        try:
            with self.client(port) as one:
                return bool(one.ping())
        except redis.RedisError:
            return False

    def _until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        ends_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > ends_s:
                msg = f"the sentinels did not come to it: see the logs in {self._directory}"
                raise TimeoutError(msg)
            time.sleep(_PAUSE_S)

    def _stop(self) -> None:
        for child in self._children.values():
            stop_child(child, _GRACE_S)
