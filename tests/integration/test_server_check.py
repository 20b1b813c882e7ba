"""What a worker finds out of its Redis before it begins: real servers, each unfit in its way."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from conftest import PATIENCE_S, run, until
from server import Server, free_port

from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.local.redis_server import EmbeddedRedis, server_program
from worker.contract.local.subprocesses import start_child, stop_child
from worker.contract.redis.connections import BrokerUnreachableError, connect
from worker.contract.redis.rights import ServerUnfitError
from worker.contract.redis.server_check import (
    check_server,
    refusal,
    worker_commands,
    write_commands,
)

REFUSALS = ("READONLY", "OOM", "MISCONF", "NOPERM")
# A server in cluster mode also listens at the port that is 10,000 higher.
HIGHEST_PORT = 55_000


@contextmanager
def server_with(directory: Path, *options: str) -> Iterator[str]:
    """A server with options of its own; yields its URL."""
    port = next(port for port in iter(free_port, None) if port < HIGHEST_PORT)
    argv = [server_program(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", *options]
    child = start_child(argv, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: _listens(port))
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        stop_child(child, PATIENCE_S)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_server_that_is_fit_is_left_as_it_was(server: EmbeddedRedis, client: redis.Redis) -> None:
    check_server(client, "here", worker_commands(KEYS))
    assert client.dbsize() == 0


@pytest.mark.parametrize(
    ("commands", "keys", "channels", "reason"),
    [
        (["+@all", "-blmove"], ["*"], ["*"], "BLMOVE wanwu:tag"),
        (["+@all"], ["wanwu:[!t]*"], ["*"], "key"),
        (["+@all"], ["*"], ["mine"], "PUBLISH"),
        (["+@all", "-@scripting"], ["*"], ["*"], "EVALSHA"),
        (["+@all", "-multi"], ["*"], ["*"], "MULTI"),
    ],
)
def test_a_right_that_is_missing_is_named(
    server: EmbeddedRedis,
    client: redis.Redis,
    commands: list[str],
    keys: list[str],
    channels: list[str],
    reason: str,
) -> None:
    rights = {"commands": commands, "keys": keys, "channels": channels}
    client.acl_setuser("w", reset=True, enabled=True, passwords=["+pw"], **rights)  # type: ignore[arg-type]
    try:
        url = f"redis://w:pw@{server.url.partition('@')[2]}"
        with (
            connect(url) as one,
            pytest.raises(ServerUnfitError, match=f"lacks rights: .*{reason}"),
        ):
            check_server(one, "here", worker_commands(KEYS))
    finally:
        client.acl_deluser("w")


def test_a_worker_says_in_one_sentence_what_its_redis_cannot_do(tmp_path: Path) -> None:
    cases = {
        ("--rename-command", "BLMOVE", ""): "does not know BLMOVE",
        ("--cluster-enabled", "yes"): "cluster mode",
        ("--requirepass", "geheim"): "is the password right?",
    }
    for options, reason in cases.items():
        with server_with(tmp_path, *options) as url:
            done = run("worker", "start", broker_url=url)
        assert done.returncode == 1, done.stderr
        assert reason in done.stderr
        assert "Traceback" not in done.stderr
        assert "worker.ready" not in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_producers_say_so_too(tmp_path: Path) -> None:
    with server_with(tmp_path, "--cluster-enabled", "yes") as url:
        for argv in (("status",), ("submit", "ops/examples"), ("doctor",)):
            done = run("producer", *argv, broker_url=url)
            assert done.returncode == 1
            assert "cluster mode" in done.stdout + done.stderr
            assert "Traceback" not in done.stderr


def test_a_refusal_of_the_moment_is_no_reason_to_refuse_and_is_told_by_the_doctor(
    tmp_path: Path,
) -> None:
    with Server(tmp_path) as server, connect(server.url) as client:
        assert refusal(client, write_commands(KEYS)) == ""
        for code in REFUSALS[:3]:
            server.refuse(code)
            check_server(client, "here", worker_commands(KEYS))
            assert refusal(client, write_commands(KEYS)).startswith(code)
            done = run("producer", "doctor", broker_url=server.url)
            assert f"Redis answers, but refuses work: {code}" in done.stdout
            assert done.returncode == 1
            server.accept(code)
        assert refusal(client, write_commands(KEYS)) == ""


def test_a_server_that_says_nothing_is_told_in_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(BrokerUnreachableError, match=r"(?i)time"):
            connect(f"redis://127.0.0.1:{port}/0", timeout_s=0.2)
        with pytest.raises(BrokerUnreachableError, match="does it speak TLS"):
            connect(f"rediss://127.0.0.1:{port}/0", timeout_s=0.2)


def test_each_command_ends_at_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://:geheim@127.0.0.1:{silent.getsockname()[1]}/0"
        verbs = (
            *(("status",), ("doctor",), ("submit", "ops/examples"), ("results", "none")),
            *(("cancel", "none"), ("requeue", "--all"), ("exporter", "--port", str(free_port()))),
        )

        def ended(argv: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
            return run("producer", *argv, broker_url=url)

        with ThreadPoolExecutor(len(verbs)) as at_once:
            all_done = list(at_once.map(ended, verbs))
        for argv, done in zip(verbs, all_done, strict=True):
            assert done.returncode == 1, (argv, done.stderr)
            assert "cannot reach Redis at redis://:***@" in done.stdout + done.stderr
