"""A Redis that listens at a socket alone, for every client."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from conftest import Fleet, run, until
from flowers import flower_at
from images import fill

from worker.contract.local.redis_server import server_program
from worker.contract.local.subprocesses import start_child, stop_child
from worker.contract.redis.connections import connect
from worker.contract.secret import SecretUrl

pytestmark = pytest.mark.integration

PASSWORD = "geheim"


@pytest.fixture
def socket(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "redis.sock"
    options = {"port": "0", "unixsocket": str(place), "requirepass": PASSWORD, "save": ""}
    argv = [word for name, value in options.items() for word in (f"--{name}", value)]
    child = start_child(
        [server_program(), *argv],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with redis.Redis(unix_socket_path=str(place), password=PASSWORD) as client:
        until(place.exists)
        until(lambda: bool(client.ping()))
    yield place
    stop_child(child, 60)


@pytest.mark.parametrize("scheme", ["unix", "redis+socket"])
def test_images_are_tagged_through_a_socket(
    socket: Path, scheme: str, fleet: Fleet, tmp_path: Path
) -> None:
    fill(tmp_path / "photos", 12)
    url, out = f"{scheme}://:{PASSWORD}@{socket}?db=3", tmp_path / "out.jsonl"
    worker = fleet.start(url)
    with flower_at(url, tmp_path) as flower:
        argv = ("submit", str(tmp_path / "photos"), "--out", str(out))
        done = run("producer", *argv, broker_url=url)
        assert done.returncode == 0, done.stderr
        assert len(out.read_text(encoding="utf-8").splitlines()) == 12
        assert sum(one["images"] for one in flower.succeeded(2)) == 12
        assert "tag" in flower.get("/broker")
    checked = run("producer", "doctor", broker_url=url)
    assert checked.returncode == 0, checked.stdout
    with connect(SecretUrl(f"unix://:{PASSWORD}@{socket}")) as first:
        assert first.dbsize() == 0
    assert worker.stop() == 0
    assert PASSWORD not in worker.text + done.stderr + checked.stdout


def test_a_socket_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    done = run("producer", "status", broker_url=f"unix://:{PASSWORD}@{tmp_path}/none.sock")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: cannot reach Redis at unix://:***@{tmp_path}/none.sock")
    assert len(done.stderr.splitlines()) == 1
