"""Flower itself, beside a real worker: what it shows of a job is what came back."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import ROOT, Crew, environment, run
from images import fill
from server import free_port

from worker.contract.embedded import EmbeddedRedis
from worker.contract.messages import QUEUE, ChunkResult, Failure, ImageResult, Timing
from worker.contract.processes import start_child, stop_child
from worker.emit import event_fields

pytestmark = pytest.mark.integration

USER = "ann:secret of the tests"


class Flower:
    """The real one, asked over its API."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"

    def address(self, path: str) -> str:
        """The page's address, with user and password in it."""
        return f"{self._base}{path}".replace("://", f"://{urllib.parse.quote(USER, safe=':')}@")

    def get(self, path: str, user: str | None = USER) -> Any:
        request = urllib.request.Request(f"{self._base}{path}")
        if user:
            word = base64.b64encode(user.encode()).decode()
            request.add_header("Authorization", f"Basic {word}")
        with urllib.request.urlopen(request, timeout=10) as answer:
            body = answer.read().decode()
        return json.loads(body) if path.startswith("/api") else body


@pytest.fixture
def flower(server: EmbeddedRedis, client: redis.Redis, tmp_path: Path) -> Iterator[Flower]:
    port = free_port()
    variables = environment(broker_url=server.url) | {"FLOWER_BASIC_AUTH": USER}
    log = (tmp_path / "flower.log").open("wb")
    child = start_child(
        [str(ROOT / "ops" / "flower"), f"--port={port}"],
        cwd=tmp_path,
        env=variables,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    found, ends_s = Flower(port), time.monotonic() + 60
    try:
        while True:
            try:
                found.get("/api/workers")
                break
            except (OSError, urllib.error.URLError):
                told = (tmp_path / "flower.log").read_text(encoding="utf-8")
                assert child.poll() is None, told
                assert time.monotonic() < ends_s, told
                time.sleep(0.1)
        words = Path(f"/proc/{child.pid}/cmdline").read_bytes().decode()
        assert server.url not in words
        yield found
    finally:
        stop_child(child, 10)
        log.close()


def test_each_chunk_shows_its_images_its_batches_and_where_its_time_went(
    server: EmbeddedRedis, client: redis.Redis, flower: Flower, crew: Crew, tmp_path: Path
) -> None:
    photos = fill(tmp_path / "photos", 40, (800, 600))
    photos[3].write_bytes(b"no image")
    sent = run("producer", "submit", str(tmp_path / "photos"), "--no-wait", broker_url=server.url)
    job = sent.stdout.strip()
    # Nobody works yet: depth is what waits.
    (depth,) = [
        one for one in flower.get("/api/queues/length")["active_queues"] if one["name"] == QUEUE
    ] or [{"messages": client.llen(QUEUE)}]
    assert depth["messages"] == client.llen(QUEUE) == 5
    crew.start(server.url)
    out = tmp_path / "out.jsonl"
    run("producer", "results", job, "--wait", "--out", str(out), broker_url=server.url)
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    ends_s = time.monotonic() + 20
    while time.monotonic() < ends_s:
        tasks = [one for one in flower.get("/api/tasks").values() if one["state"] == "SUCCESS"]
        if len(tasks) == 5:
            break
        time.sleep(0.2)
    assert {one["uuid"] for one in tasks} == {f"{job}-{seq}" for seq in range(5)}
    assert sum(one["images"] for one in tasks) == 40
    assert sum(one["failed_images"] for one in tasks) == 1
    assert {(one["device"], one["model"]) for one in tasks} == {("cpu", lines[0]["model"])}
    for stage in ("queue_ms", "read_ms", "decode_ms", "batch_wait_ms", "infer_ms", "total_ms"):
        told = sum(one[stage] * one["images"] for one in tasks) / 40
        meant = [line["timing"][stage] for line in lines if line["timing"][stage] is not None]
        assert told == pytest.approx(sum(meant) / len(meant), rel=0.05, abs=0.2), stage
    for one in tasks:
        assert one["images_per_s"] == pytest.approx(one["images"] / one["runtime"], rel=0.01)
        assert 1 <= one["batch"] <= 4
    shown = flower.get("/tasks")
    columns = re.findall(r'data-column="(\w+)"', shown)
    assert columns[:3] == ["uuid", "state", "images"]
    assert {"images_per_s", "batch", "queue_ms", "infer_ms", "device", "worker"} <= set(columns)
    page = flower.get(f"/task/{job}-0")
    assert "Decode Ms" in page or "decode_ms" in page or "Decode ms" in page
    (stats,) = flower.get("/api/workers?refresh=1").values()
    batches = Counter({int(k): n for k, n in stats["stats"]["tagger"]["batch_sizes"].items()})
    assert sum(size * count for size, count in batches.items()) == 39


def test_a_browser_shows_the_columns_with_the_figures(
    server: EmbeddedRedis, client: redis.Redis, flower: Flower, crew: Crew, tmp_path: Path
) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not here")
    crew.start(server.url)
    fill(tmp_path / "photos", 24)
    run("producer", "submit", str(tmp_path / "photos"), broker_url=server.url)
    wanted: dict[str, Any] = {}
    ends_s = time.monotonic() + 20
    while len(wanted) < 3 and time.monotonic() < ends_s:
        tasks = flower.get("/api/tasks").values()
        wanted = {one["uuid"]: one for one in tasks if one["state"] == "SUCCESS"}
        time.sleep(0.2)
    done = subprocess.run(
        [
            *(chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            *(f"--user-data-dir={tmp_path / 'chromium'}", "--virtual-time-budget=8000"),
            "--window-size=1600,900",
            flower.address("/tasks"),
        ],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    heads = list(dict.fromkeys(re.findall(r'<th[^>]*data-column="(\w+)"', done.stdout)))
    rows = re.findall(r'<tr id="([^"]+)"[^>]*>(.*?)</tr>', done.stdout, re.DOTALL)
    assert {uuid for uuid, _ in rows} == set(wanted)
    for uuid, row in rows:
        cells = [
            re.sub(r"<[^>]+>", "", cell)
            for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)
        ]
        shown = dict(zip(heads, cells, strict=True))
        for name in ("images", "failed_images", "images_per_s", "batch", "queue_ms", "infer_ms"):
            assert float(shown[name]) == wanted[uuid][name], name
        assert shown["device"] == "cpu"


def test_nobody_looks_without_the_password(flower: Flower) -> None:
    for user in (None, "ann:wrong"):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            flower.get("/api/tasks", user)


def test_an_event_tells_means_over_the_images_that_reached_a_stage() -> None:
    bad = Failure("empty_file", "read", "the file is empty")
    images = (
        ImageResult(path="/a", timing=Timing(queue_ms=2, infer_ms=5.04), batch_size=4),
        ImageResult(path="/b", timing=Timing(queue_ms=4), error=bad),
        ImageResult(path="/c", timing=Timing(queue_ms=6, infer_ms=7.0), batch_size=3),
    )
    result = ChunkResult(job="j", seq=0, worker="w", device="cpu", model="m", images=images)
    told = event_fields(result)
    assert (told["images"], told["failed_images"], told["batch"]) == (3, 1, 3.5)
    assert (told["queue_ms"], told["infer_ms"], told["read_ms"]) == (4.0, 6.0, None)
    assert json.loads(json.dumps(told)) == told
