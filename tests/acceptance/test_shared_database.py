"""One database, several applications: ours with two prefixes, and a stock Celery one."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import PATIENCE_S, ROOT, STEADY, Fleet, environment, run, until
from documents import DOCS, lines
from flowers import flower_at
from images import fill
from server import free_port

from producer import Client
from worker.contract.keys import DEFAULT_KEYS, Keys
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.local.subprocesses import start_child, stop_child

pytestmark = pytest.mark.integration

LEASE_S = "2"
# A task that runs for longer than three leases of ours, and notes when it starts and ends.
STOCK = """
import os, time
from celery import Celery
app = Celery("stock", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.task_acks_late = True
@app.task
def slow(place):
    with open(place, "a") as file: file.write("began ")
    time.sleep(8)
    with open(place, "a") as file: file.write("ended ")
    return "done"
"""


class Stock:
    """A Celery application with the names that Celery gives, in a directory of its own."""

    def __init__(self, directory: Path, url: str, stack: ExitStack) -> None:
        (directory / "stock.py").write_text(STOCK)
        self._directory = directory
        self._environment = environment() | {"BROKER": url, "PYTHONPATH": str(directory)}
        log = directory / "stock.log"
        with log.open("wb") as sink:
            argv = [sys.executable, "-m", "celery", "-A", "stock", "worker", "-P", "threads"]
            child = start_child(
                [*argv, "-l", "info"],
                cwd=directory,
                env=self._environment,
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        self.worker = child
        stack.callback(stop_child, child, PATIENCE_S)
        until(lambda: " ready." in log.read_text())

    def run(self, *argv: str) -> str:
        """Run Python in the application's directory."""
        done = subprocess.run(
            [sys.executable, *argv],
            cwd=self._directory,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        return done.stdout + done.stderr


@pytest.fixture
def stock(server: EmbeddedRedis, client: redis.Redis, tmp_path: Path) -> Iterator[Stock]:
    with ExitStack() as stack:
        yield Stock(tmp_path, server.url, stack)


def tagged(url: str, directory: Path, images: int = 8, prefix: str = "") -> list[str]:
    """Paths that were tagged, of so many images."""
    fill(directory, images)
    done = run("producer", "submit", str(directory), broker_url=url, prefix=prefix)
    assert done.returncode == 0, done.stderr
    return [line["path"] for line in map(json.loads, done.stdout.splitlines())]


def test_a_stock_application_and_ours_leave_each_other_alone(
    server: EmbeddedRedis, client: redis.Redis, stock: Stock, fleet: Fleet, tmp_path: Path
) -> None:
    # A key that somebody else has, of another kind than ours was.
    client.set("tag", "a tag of somebody's")
    worker = fleet.start(server.url, visibility_timeout_s=LEASE_S)
    place = tmp_path / "times"
    ask = f"import stock; stock.slow.delay({str(place)!r})"
    stock.run("-c", ask)
    until(place.exists)
    # Its messages are held for longer than a lease of ours, while ours idles and works.
    assert len(tagged(server.url, tmp_path / "first")) == 8
    until(lambda: "ended" in place.read_text())
    assert place.read_text() == "began ended "

    control = ("-m", "celery", "-A", "stock", "control")
    stock.run(*control, "add_consumer", "elsewhere")
    stock.run(*control, "pool_grow", "5")
    run("producer", "submit", str(tmp_path / "first"), "--no-wait", broker_url=server.url)
    stock.run("-m", "celery", "-A", "stock", "purge", "-f")
    stock.run(*control, "shutdown")
    assert stock.worker.wait(PATIENCE_S) == 0
    until(lambda: not client.exists(DEFAULT_KEYS.queue, DEFAULT_KEYS.unacked))
    assert len(tagged(server.url, tmp_path / "second")) == 8
    assert worker.process.poll() is None
    assert "control" not in worker.text
    assert client.get("tag") == b"a tag of somebody's"


def test_our_purge_and_control_leave_the_stock_application_alone(
    server: EmbeddedRedis, client: redis.Redis, stock: Stock, fleet: Fleet, tmp_path: Path
) -> None:
    for one in fleet.workers:
        one.stop()
    place = tmp_path / "times"
    stock.run("-c", f"import stock; stock.slow.delay({str(place)!r})")
    until(place.exists)
    stop_child(stock.worker, PATIENCE_S)
    # One waits, with nobody to take it.
    stock.run("-c", f"import stock; stock.slow.delay({str(place)!r})")
    waiting = client.lrange("celery", 0, -1)
    assert waiting
    (photo, *_) = fill(tmp_path / "photos", 1)
    run("producer", "submit", str(photo), "--no-wait", broker_url=server.url)
    ours = environment(broker_url=server.url) | {"PYTHONPATH": str(ROOT)}
    (line,) = (line for line in lines(DOCS / "operations.md") if "purge" in line)
    argv = [sys.executable, "-m", *shlex.split(line)]
    done = subprocess.run(argv, cwd=ROOT, env=ours, capture_output=True, text=True, check=False)
    assert "1 message" in done.stdout, done.stdout + done.stderr
    assert client.llen(DEFAULT_KEYS.queue) == 0
    assert client.lrange("celery", 0, -1) == waiting


def test_two_installations_in_one_database_live_apart(
    server: EmbeddedRedis, client: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    for one in fleet.workers:
        one.stop()
    names = {"a": Keys("a"), "b": Keys("b.x-")}
    workers = {
        name: fleet.start(server.url, program=STEADY, prefix=keys.prefix)
        for name, keys in names.items()
    }
    for name, keys in names.items():
        paths = tagged(server.url, tmp_path / name, 40, prefix=keys.prefix)
        assert {Path(path).is_relative_to(tmp_path / name) for path in paths} == {True}
        assert len(paths) == 40
    every: Any = client.keys("*")
    assert not [key for key in every if not key.startswith((b"a:", b"b.x-"))]
    for name, keys in names.items():
        state = json.loads(
            run("producer", "status", "--json", broker_url=server.url, prefix=keys.prefix).stdout
        )
        (seen,) = (one["name"] for one in state["workers"])
        assert seen.startswith(f"worker-{workers[name].process.pid}@")
        assert len(state["jobs"]) == 1
    # One program may work with both.
    with Client(server.url, prefix="a") as a, Client(server.url, prefix="b.x-") as b:
        records = zip(a.tag(tmp_path / "a"), b.tag(tmp_path / "b"), strict=True)
        found = [[Path(record.path).parents[1].name for record in pair] for pair in records]
    assert found == [["a", "b"]] * 40
    # What waits is what waits in each; nobody takes the other's.
    assert workers["b"].stop() == 0
    argv = ("producer", "submit", str(tmp_path / "b"), "--no-wait")
    assert run(*argv, broker_url=server.url, prefix="b.x-").returncode == 0
    waiting = client.llen("b.x-tag")
    assert waiting > 0
    assert len(tagged(server.url, tmp_path / "a", 40, prefix="a")) == 40
    assert client.llen("b.x-tag") == waiting
    for prefix, depth in {"a": 0, "b.x-": waiting}.items():
        said = run("producer", "doctor", broker_url=server.url, prefix=prefix).stdout
        assert f"{depth} messages wait in the queue" in said
        assert f'wanwu_messages{{where="waiting"}} {depth}.0' in exported(server.url, prefix)
        with flower_at(server.url, tmp_path, prefix=prefix) as flower:
            if prefix == "a":
                assert len(flower.wait("/api/workers?refresh=1", bool)) == 1
            else:
                assert not flower.get("/api/workers?refresh=1")
            view = flower.wait("/api/throughput", lambda view: view["redis_up"])
            assert view["chunks_waiting"] == depth


def exported(url: str, prefix: str) -> str:
    """What an exporter of an installation says."""
    port = free_port()
    argv = [sys.executable, "-m", "producer.cli", "exporter", "--port", str(port)]
    child = start_child(
        argv, cwd=ROOT, env=environment(broker_url=url, prefix=prefix), stderr=subprocess.PIPE
    )
    try:
        assert child.stderr is not None
        assert b"listening on" in child.stderr.readline()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            return str(answer.read().decode())
    finally:
        stop_child(child, PATIENCE_S)
        if child.stderr:
            child.stderr.close()
