"""A Redis that refuses, stands still, or is lost without a word: workers live through all of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
from conftest import PATIENCE_S, ROOT, STEADY, Fleet, Worker, environment
from images import encoded, picture
from proxy import Proxy
from server import Server, free_port

pytestmark = pytest.mark.integration

IMAGES = 250
LEASE_S = "5"
# The refusal that a role change alone is: commands that wait end with UNBLOCKED.
ROLE_CHANGE = "UNBLOCKED"
Wait = Callable[[Callable[[], bool]], None]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(scope="module")
def worker(server: Server, fleet: Fleet) -> Worker:
    return fleet.start(server.url, program=STEADY, visibility_timeout_s=LEASE_S)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("photos")
    body = encoded(picture(1, (32, 24)))
    for number in range(IMAGES):
        (directory / f"{number:04}.jpg").write_bytes(body)
    return directory


def submit(server: Server, photos: Path, out: Path) -> subprocess.Popen[str]:
    argv = ("submit", str(photos), "--broker", server.url, "--out", str(out))
    return subprocess.Popen(
        [sys.executable, "-m", "producer.cli", *argv],
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )


def check_all(job: subprocess.Popen[str], out: Path) -> None:
    _, said = job.communicate(timeout=PATIENCE_S)
    assert job.returncode == 0, said
    found = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(found) == len({one["path"] for one in found}) == IMAGES
    assert {one["status"] for one in found} == {"ok"}


@pytest.mark.parametrize("code", ["READONLY", "OOM", "MISCONF", "NOPERM", ROLE_CHANGE])
def test_a_refusal_in_the_middle_of_a_job_costs_time_alone(
    server: Server, worker: Worker, photos: Path, tmp_path: Path, wait_until: Wait, code: str
) -> None:
    out = tmp_path / "out.jsonl"
    refused = "READONLY" if code == ROLE_CHANGE else code
    job = submit(server, photos, out)
    wait_until(lambda: out.exists() and out.stat().st_size > 0)
    server.refuse(refused)
    time.sleep(0 if code == ROLE_CHANGE else 2)
    server.accept(refused)
    check_all(job, out)
    assert worker.process.poll() is None
    # A refusal is a line or two, not the traceback of wherever it was met.
    assert "Traceback" not in worker.text


@pytest.mark.parametrize("when", ["idle", "busy"])
def test_connections_that_vanish_without_a_word_are_made_anew(
    server: Server, fleet: Fleet, photos: Path, tmp_path: Path, wait_until: Wait, when: str
) -> None:
    out = tmp_path / "out.jsonl"
    with closing(Proxy(server.port)) as proxy, redis.Redis.from_url(server.url) as client:
        for other in fleet.workers:
            other.stop()
        client.flushall()
        url = server.url.replace(str(server.port), str(proxy.port))
        one = fleet.start(url, program=STEADY, visibility_timeout_s=LEASE_S)
        if when == "idle":
            assert proxy.forget() > 0
            wait_until(lambda: one.text.count("Connected to") > 1)
        job = submit(server, photos, out)
        if when == "busy":
            wait_until(lambda: out.exists() and out.stat().st_size > 0)
            assert proxy.forget() > 0
        check_all(job, out)
        assert one.process.poll() is None
        assert one.stop() == 0


def test_health_is_red_while_redis_stands_still_and_a_new_process_is_not_asked_for(
    server: Server, fleet: Fleet, wait_until: Wait
) -> None:
    port = free_port()
    one = fleet.start(server.url, program=STEADY, monitor_port=str(port))
    assert ask(port, "/healthz") == (200, None)
    server.freeze()
    try:
        wait_until(lambda: ask(port, "/healthz")[0] == 503)
        status, problem = ask(port, "/healthz")
        assert (status, "Redis has not answered" in str(problem)) == (503, True)
        assert ask(port, "/livez") == (200, None)
    finally:
        server.thaw()
    wait_until(lambda: ask(port, "/healthz") == (200, None))
    assert one.process.poll() is None
    assert one.stop() == 0


def ask(port: int, path: str) -> tuple[int, str | None]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_S) as answer:
            return answer.status, json.load(answer)["problem"]
    except urllib.error.HTTPError as e:
        return e.code, json.load(e)["problem"]
