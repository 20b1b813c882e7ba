"""Flower itself, beside a real worker: what it shows of a job is what came back."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.error
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import PATIENCE_S, Fleet, Worker, run
from flowers import Flower, flower_at
from images import fill
from PIL import Image

from producer.monitoring.flower.throughput_stats import PERIOD_S
from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.messages import QUEUE, ChunkResult, Failure, ImageResult, Timing
from worker.contract.queue.fair import FairQueue
from worker.pipeline.result import event_fields

pytestmark = pytest.mark.integration

WIDTH, HEIGHT = 1600, 1000


@pytest.fixture
def flower(server: EmbeddedRedis, client: redis.Redis, tmp_path: Path) -> Iterator[Flower]:
    with flower_at(server.url, tmp_path) as found:
        yield found


def test_each_chunk_shows_its_images_its_batches_and_where_its_time_went(
    server: EmbeddedRedis, client: redis.Redis, flower: Flower, fleet: Fleet, tmp_path: Path
) -> None:
    photos = fill(tmp_path / "photos", 40, (800, 600))
    photos[3].write_bytes(b"no image")
    sent = run("producer", "submit", str(tmp_path / "photos"), "--no-wait", broker_url=server.url)
    job = sent.stdout.strip()
    # Nobody works yet: depth is what waits.
    (depth,) = [
        one for one in flower.get("/api/queues/length")["active_queues"] if one["name"] == QUEUE
    ] or [{"messages": FairQueue(KEYS).size(client)}]
    assert depth["messages"] == FairQueue(KEYS).size(client) == 5
    fleet.start(server.url)
    out = tmp_path / "out.jsonl"
    run("producer", "results", job, "--wait", "--out", str(out), broker_url=server.url)
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    tasks = flower.succeeded(5)
    assert {one["uuid"] for one in tasks} == {f"{job}-{seq}" for seq in range(5)}
    assert sum(one["images"] for one in tasks) == 40
    assert sum(one["failed_images"] for one in tasks) == 1
    assert {(one["device"], one["model"]) for one in tasks} == {("cpu", lines[0]["model"])}
    for stage in ("queue_ms", "read_ms", "decode_ms", "batch_wait_ms", "infer_ms", "total_ms"):
        reply = sum(one[stage] * one["images"] for one in tasks) / 40
        meant = [line["timing"][stage] for line in lines if line["timing"][stage] is not None]
        assert reply == pytest.approx(sum(meant) / len(meant), rel=0.05, abs=0.2), stage
    for one in tasks:
        assert one["images_per_s"] == pytest.approx(one["images"] / one["runtime"], rel=0.01)
        assert 1 <= one["batch"] <= 4
    shown = flower.get("/tasks")
    columns = re.findall(r'data-column="(\w+)"', shown)
    assert columns[:3] == ["uuid", "state", "images"]
    assert {"images_per_s", "batch", "queue_ms", "infer_ms", "device", "worker"} <= set(columns)
    page = flower.get(f"/task/{job}-0")
    assert "Decode Ms" in page or "decode_ms" in page or "Decode ms" in page
    ((name, stats),) = flower.get("/api/workers?refresh=1").items()
    shown = flower.get(f"/worker/{name}")
    assert "worker-refresh" in shown
    for refused in ("worker-shutdown", "worker-pool-grow", "cancel-consumer", "task-timeout"):
        assert refused not in shown, refused
    batches = Counter({int(k): n for k, n in stats["stats"]["tagger"]["batch_sizes"].items()})
    assert sum(size * count for size, count in batches.items()) == 39


class Browser:
    """Chromium without a window. Its pictures go to SCREENSHOTS, if that is set."""

    def __init__(self, program: str, directory: Path) -> None:
        self._program = program
        self._profile = directory / "chromium"
        self._pictures = Path(os.environ.get("SCREENSHOTS") or directory)

    def page(self, address: str) -> str:
        """Return the page as it is once its scripts have run."""
        return self._run(address, "--dump-dom")

    def picture(self, address: str, name: str) -> Image.Image:
        """Return what a person sees of it."""
        file = self._pictures / f"flower-{name}.png"
        self._run(address, f"--screenshot={file}")
        with Image.open(file) as picture:
            small = picture.convert("RGB").quantize(64)
            small.save(file, optimize=True)
            return picture.convert("RGB")

    def _run(self, address: str, *argv: str) -> str:
        return subprocess.run(
            [
                *(self._program, "--headless=new", "--no-sandbox", "--disable-gpu"),
                *(f"--user-data-dir={self._profile}", "--virtual-time-budget=8000"),
                *(f"--window-size={WIDTH},{HEIGHT}", "--hide-scrollbars", *argv, address),
            ],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
        ).stdout


@pytest.fixture
def browser(tmp_path: Path) -> Browser:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not here")
    return Browser(chromium, tmp_path)


def cells(row: str) -> list[str]:
    """Return the words of a table's row."""
    found = re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)
    return [html.unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in found]


def seen(picture: Image.Image) -> None:
    """A person would see something: text and tables have shades."""
    assert picture.size == (WIDTH, HEIGHT)
    assert len(picture.getcolors(2**20) or ()) > 50


def tagged(url: str, flower: Flower, directory: Path) -> tuple[list[Any], dict[str, Any]]:
    """Tag 24 images: return their records, and what Flower says of their three chunks."""
    out = directory / "out.jsonl"
    fill(directory / "photos", 24)
    run("producer", "submit", str(directory / "photos"), "--out", str(out), broker_url=url)
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    wanted = {one["uuid"]: one for one in flower.succeeded(3)}
    return lines, wanted


@pytest.fixture
def worker(server: EmbeddedRedis, fleet: Fleet) -> Worker:
    """One that no other test has had."""
    for one in fleet.workers:
        one.stop()
    return fleet.start(server.url)


def test_a_browser_shows_where_the_time_went_as_the_records_do(
    server: EmbeddedRedis, flower: Flower, browser: Browser, worker: Worker, tmp_path: Path
) -> None:
    lines, wanted = tagged(server.url, flower, tmp_path)
    page = browser.page(flower.address("/tasks"))
    heads = list(dict.fromkeys(re.findall(r'<th[^>]*data-column="(\w+)"', page)))
    rows = re.findall(r'<tr id="([^"]+)"[^>]*>(.*?)</tr>', page, re.DOTALL)
    assert {uuid for uuid, _ in rows} == set(wanted)
    infer_ms = 0.0
    for uuid, row in rows:
        shown = dict(zip(heads, cells(row), strict=True))
        for name in ("images", "failed_images", "images_per_s", "batch", "queue_ms", "infer_ms"):
            assert float(shown[name]) == wanted[uuid][name], name
        assert shown["device"] == "cpu"
        infer_ms += float(shown["infer_ms"]) * int(shown["images"]) / len(lines)
    meant_ms = sum(line["timing"]["infer_ms"] for line in lines) / len(lines)
    assert infer_ms == pytest.approx(meant_ms, rel=0.05, abs=0.2)

    task = next(iter(wanted.values()))
    page = browser.page(flower.address(f"/task/{task['uuid']}"))
    said = dict(re.findall(r"<dt>([^<]*)</dt>\s*<dd>\s*([^<]*?)\s*</dd>", page))
    said = {label.lower(): argv for label, argv in said.items()}
    assert said["infer ms"] == str(task["infer_ms"])
    assert said["images"] == str(task["images"])
    for path, of in (("/tasks", "tasks"), (f"/task/{task['uuid']}", "task")):
        seen(browser.picture(flower.address(path), of))


def test_a_browser_shows_each_worker_and_the_depth_that_redis_has(
    server: EmbeddedRedis,
    client: redis.Redis,
    flower: Flower,
    browser: Browser,
    worker: Worker,
    tmp_path: Path,
) -> None:
    lines, _ = tagged(server.url, flower, tmp_path)
    # One that has just ended may still be listed.
    (name,) = (
        one
        for one in flower.get("/api/workers?refresh=1")
        if one.startswith(f"worker-{worker.process.pid}@")
    )
    page = browser.page(flower.address(f"/worker/{name}"))
    table = [cells(row) for row in re.findall(r"<tr[^>]*>(.*?)</tr>", page, re.DOTALL)]
    (tagger,) = (row[1] for row in table if row[:1] == ["tagger"])
    assert lines[0]["model"] in tagger
    panel = {row[0]: row[1:] for row in table if row}
    assert panel["Model"] == [lines[0]["model"]]
    assert panel["Images"] == ["24, 0 of them failed"]
    sizes = re.findall(r"(\d+) of (\d+)", panel["Batches, by size"][0])
    assert sum(int(count) * int(size) for count, size in sizes) == 24
    for stage in ("decode", "infer", "total"):
        middle, most, worst = (float(one.replace(",", "")) for one in panel[stage])
        meant = [line["timing"][f"{stage}_ms"] for line in lines]
        assert min(meant) - 0.1 <= middle <= most <= worst <= max(meant) * 1.3 + 1

    # The worker stands still, so that the depth does.
    os.kill(worker.process.pid, signal.SIGSTOP)
    try:
        run("producer", "submit", str(tmp_path / "photos"), "--no-wait", broker_url=server.url)
        (depth,) = flower.get("/api/queues/length")["active_queues"]
        page = browser.page(flower.address("/broker"))
        (row,) = re.findall(rf'<tr id="{QUEUE}">(.*?)</tr>', page, re.DOTALL)
        waiting = FairQueue(KEYS).size(client)
        assert waiting > 0
        assert depth == {"name": QUEUE, "messages": waiting}
        assert cells(row)[:2] == [QUEUE, str(waiting)]
        for path, of in (("/broker", "broker"), (f"/worker/{name}", "worker")):
            seen(browser.picture(flower.address(path), of))
    finally:
        os.kill(worker.process.pid, signal.SIGCONT)


def jobs_in(client: redis.Redis) -> dict[str, int]:
    """What Redis itself says of images, over all jobs."""
    asked: Any = client
    names = [name for name in asked.keys("wanwu:job:*") if not name.endswith(b":done")]
    rows = [asked.hgetall(name) for name in names]
    return {field: sum(int(row[field.encode()]) for row in rows) for field in ("images", "done")}


def falls_as_redis_says(client: redis.Redis, flower: Flower, images: int) -> None:
    """Watch Flower's backlog until it is empty: it only falls, and runs not ahead of Redis."""
    left, ends_s = images, time.monotonic() + PATIENCE_S
    while left and time.monotonic() < ends_s:
        time.sleep(PERIOD_S / 4)
        before, left = left, flower.get("/api/throughput")["backlog_images"]
        assert images - jobs_in(client)["done"] <= left <= before
    assert left == 0


def test_the_throughput_page_shows_what_is_to_do_how_fast_and_by_whom(
    server: EmbeddedRedis,
    client: redis.Redis,
    flower: Flower,
    browser: Browser,
    worker: Worker,
    tmp_path: Path,
) -> None:
    for bad in fill(tmp_path / "photos", 800)[::40]:
        bad.write_bytes(b"no image")
    flower.wait("/api/throughput", lambda view: view["redis_up"])
    # The worker stands still, so that all figures do.
    os.kill(worker.process.pid, signal.SIGSTOP)
    try:
        sent = run(
            "producer", "submit", str(tmp_path / "photos"), "--no-wait", broker_url=server.url
        )
        assert sent.returncode == 0, sent.stderr
        view = flower.wait("/api/throughput", lambda view: view["backlog_images"] == 800)
        waiting = FairQueue(KEYS).size(client)
        assert jobs_in(client) == {"images": 800, "done": 0}
        assert view["backlog_images"] == 800
        assert view["chunks_waiting"] == waiting
        assert view["left_s"] is None
        page = browser.page(flower.address("/throughput"))
        assert metric(page, "backlog") == "800"
        assert f"{waiting:,} chunks wait" in page
        assert "Throughput</a>" in flower.get("/tasks")
    finally:
        os.kill(worker.process.pid, signal.SIGCONT)
    falls_as_redis_says(client, flower, 800)
    out = tmp_path / "out.jsonl"
    run("producer", "results", sent.stdout.strip(), "--out", str(out), broker_url=server.url)
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    failed = sum(line["status"] != "ok" for line in lines)
    assert (len(lines), failed) == (800, 20)

    def share(view: dict[str, Any]) -> dict[str, Any]:
        (mine,) = (
            one
            for one in view["workers"]
            if one["worker"].startswith(f"worker-{worker.process.pid}@")
        )
        return dict(mine)

    view = flower.wait("/api/throughput", lambda view: share(view)["images"] == 800)
    mine = share(view)
    assert (mine["images"], mine["failed"], mine["device"]) == (800, 20, "cpu")
    assert mine["model"] == lines[0]["model"]
    moments = [one["backlog_images"] for one in view["moments"]]
    fallen = moments[moments.index(800) :]
    assert fallen == sorted(fallen, reverse=True)
    assert max(one["images_per_s"] or 0 for one in view["moments"]) > 0
    page = browser.page(flower.address("/throughput"))
    assert metric(page, "backlog") == "0"
    (row,) = re.findall(rf'<tr id="{mine["worker"]}">(.*?)</tr>', page, re.DOTALL)
    shown = cells(row)
    assert shown[0] == mine["worker"]
    assert {"800", "20", "cpu", mine["model"]} <= set(shown)
    for name in ("backlog", "rate"):
        (plot,) = re.findall(rf'id="plot-{name}".*?points="([^"]*)"', page, re.DOTALL)
        assert len(plot.split()) >= len(fallen)
    # For a person: with work under way.
    for _ in range(3):
        run("producer", "submit", str(tmp_path / "photos"), "--no-wait", broker_url=server.url)
    flower.wait("/api/throughput", lambda view: view["left_s"])
    seen(browser.picture(flower.address("/throughput"), "throughput"))


def metric(page: str, name: str) -> str:
    """Return the figure of a card."""
    (found,) = re.findall(rf'id="card-{name}".*?<p class="metric-value">(.*?)</p>', page, re.DOTALL)
    return html.unescape(found)


@pytest.mark.parametrize("path", ["/api/tasks", "/throughput", "/api/throughput"])
def test_nobody_looks_without_the_password(flower: Flower, path: str) -> None:
    for user in (None, "ann:wrong"):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            flower.get(path, user)


def test_an_event_tells_means_over_the_images_that_reached_a_stage() -> None:
    bad = Failure("empty_file", "read", "the file is empty")
    images = (
        ImageResult(path="/a", timing=Timing(queue_ms=2, infer_ms=5.04), batch_size=4),
        ImageResult(path="/b", timing=Timing(queue_ms=4), error=bad),
        ImageResult(path="/c", timing=Timing(queue_ms=6, infer_ms=7.0), batch_size=3),
    )
    result = ChunkResult(job="j", seq=0, worker="w", device="cpu", model="m", images=images)
    reply = event_fields(result)
    assert (reply["images"], reply["failed_images"], reply["batch"]) == (3, 1, 3.5)
    assert (reply["queue_ms"], reply["infer_ms"], reply["read_ms"]) == (4.0, 6.0, None)
    assert json.loads(json.dumps(reply)) == reply
