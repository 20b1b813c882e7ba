"""Verbs that answer: it is said when they do, and a port that cannot be used is one sentence."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import pytest
import redis
from conftest import PATIENCE_S, ROOT, environment, run
from server import free_port

from producer.backend.ports import PortError, listen, url_place
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.local.subprocesses import stop_child


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port: int = other.getsockname()[1]
        yield port


@pytest.mark.parametrize("verb", ["serve", "exporter"])
def test_a_port_that_is_taken_is_told_before_anything_is_said_to_answer(
    server: EmbeddedRedis, client: redis.Redis, taken: int, verb: str
) -> None:
    done = run("producer", verb, "--port", str(taken), broker_url=server.url)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"error: port {taken} of 127.0.0.1 is in use by another program: choose another --port"
    ]
    assert not done.stdout


@pytest.mark.parametrize("verb", ["serve", "exporter"])
@pytest.mark.parametrize("address", ["192.0.2.1", "nowhere.invalid", "a..b"])
def test_an_address_that_is_not_ours_is_one_sentence(
    server: EmbeddedRedis, client: redis.Redis, verb: str, address: str
) -> None:
    port = str(free_port())
    argv = ("producer", verb, "--address", address, "--port", port)
    done = run(*argv, broker_url=server.url, api_key="k")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: cannot listen on {address}, port {port}: ")


def test_a_worker_says_which_port_it_cannot_have(taken: int) -> None:
    done = run("worker", "start", broker_url="redis://127.0.0.1:1/0", monitor_port=str(taken))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert f"127.0.0.1:{taken}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("verb", "path"), [("serve", "/health"), ("exporter", "/metrics")])
def test_what_is_said_to_answer_does(
    server: EmbeddedRedis, client: redis.Redis, verb: str, path: str
) -> None:
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-m", "producer.cli", verb, "--port", str(port)],
        cwd=ROOT,
        env=environment(broker_url=server.url),
        stderr=subprocess.PIPE,
    ) as child:
        try:
            assert child.stderr
            assert f"listening on http://127.0.0.1:{port}" in child.stderr.readline().decode()
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_S
            ) as answer:
                assert answer.status == 200
        finally:
            stop_child(child, PATIENCE_S)


def test_addresses_of_both_kinds_are_listened_at() -> None:
    with listen("127.0.0.1", 0) as one:
        port = one.getsockname()[1]
        with pytest.raises(PortError, match=f"port {port} of 127.0.0.1 is in use"):
            listen("127.0.0.1", port)
    assert url_place("::1", 80) == "[::1]:80"
    assert url_place("0.0.0.0", 80) == "0.0.0.0:80"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may use any port")
def test_a_port_that_is_not_for_us_is_told() -> None:
    with pytest.raises(PortError, match="above 1023"):
        listen("127.0.0.1", 1)
