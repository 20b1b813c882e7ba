"""Which chunks a worker takes in, and which events it sends, seen from a real one."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from conftest import PATIENCE_S, Fleet, run
from images import fill

from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.queue.app import make_app
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings

pytestmark = pytest.mark.integration


def test_events_come_in_groups_and_none_is_missing(
    server: EmbeddedRedis, client: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    fill(tmp_path / "images", 64)
    worker = fleet.start(server.url)
    app = make_app(Settings(broker_url=SecretUrl(server.url)), stores_results=False)
    found: list[str] = []
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(
            connection, handlers={"*": lambda event: found.append(event["type"])}
        )
        with receiver.consumer_context() as (connected, _, _):
            # Subscribed with the first look.
            with suppress(TimeoutError):
                connected.drain_events(timeout=0.5)
            done = run("producer", "submit", str(tmp_path / "images"), broker_url=server.url)
            assert done.returncode == 0, done.stderr
            # What has gathered is published before a worker leaves.
            assert worker.stop() == 0
            ends_s = time.monotonic() + PATIENCE_S
            while found.count("task-succeeded") < 8 and time.monotonic() < ends_s:
                with suppress(TimeoutError):
                    connected.drain_events(timeout=1)
    assert [found.count(f"task-{kind}") for kind in ("received", "started", "succeeded")] == [8] * 3


def test_a_worker_leaves_to_others_what_it_has_no_capacity_for(
    server: EmbeddedRedis, client: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    fill(tmp_path / "images", 1200, (800, 600))
    workers = [fleet.start(server.url, ready=False) for _ in range(2)]
    for worker in workers:
        worker.wait_for("worker.ready")
    options = ["--chunk-size", "100", "--out", str(tmp_path / "out.jsonl")]
    done = run("producer", "submit", str(tmp_path / "images"), *options, broker_url=server.url)
    assert done.returncode == 0, done.stderr
    # Twelve chunks, and ten threads a worker: one that took a chunk for each would leave but two.
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8")
    shares = [lines.count(f"worker-{one.process.pid}@") for one in workers]
    assert sum(shares) == 1200
    assert min(shares) >= 300
