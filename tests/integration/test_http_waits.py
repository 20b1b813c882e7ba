"""`submit --server` at a server that cannot serve for a while, and says when to ask again."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from busy import busy
from conftest import STEADY, Fleet, run
from images import fill
from serving import serving

from producer.errors import ServerError
from producer.jobs.http_client import HttpClient
from worker.contract.local.redis_server import EmbeddedRedis

pytestmark = pytest.mark.integration

NOWHERE = "redis://127.0.0.1:1/0"
FULL = b'{"code": "redis_full", "message": "Redis is full: try again"}'


@pytest.mark.parametrize(
    ("body", "said"), [(FULL, "Redis is full: try again"), (b"", "the server answered 503")]
)
def test_a_server_that_asks_to_wait_is_waited_for(
    server: EmbeddedRedis, client: redis.Redis, fleet: Fleet, tmp_path: Path, body: bytes, said: str
) -> None:
    fill(tmp_path / "photos", 10)
    worker = fleet.start(server.url, program=(STEADY[0], "0"))
    out = tmp_path / "out.jsonl"
    with serving(server.url, tmp_path / "log") as api, busy(api, body, times=2) as (address, seen):
        argv = ["submit", str(tmp_path / "photos"), "--server", address, "--out", str(out)]
        done = run("producer", *argv, broker_url=NOWHERE)
    worker.stop()
    assert done.returncode == 0, done.stderr
    assert len(out.read_text(encoding="utf-8").splitlines()) == 10
    assert done.stderr.count(f"waiting: {said}") == 1
    for kind in ("GET health", "POST jobs", "POST images", "POST close", "GET results"):
        assert seen[kind] > 2, kind


def test_no_longer_than_a_redis_would_be(tmp_path: Path) -> None:
    fill(tmp_path / "photos", 1)
    with busy("", FULL, times=10**6) as (address, seen):
        argv = ["submit", str(tmp_path / "photos"), "--server", address]
        done = run("producer", *argv, broker_url=NOWHERE, redis_retry_timeout_s="1")
        assert done.returncode == 1
        assert "the server refused: redis_full: Redis is full" in done.stderr
        assert seen["GET health"] > 2
        # A stream that was opened again and again waits no longer than one request.
        http = HttpClient(address, "", 1.0)
        with pytest.raises(ServerError, match="redis_full"):
            next(http.records("job"))
        http.close()
        assert seen["GET results"] < 20
