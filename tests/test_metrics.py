"""What a worker tells Prometheus: names, units, and numbers that are those of its work."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import redis
from conftest import ROOT, Crew, environment, run
from images import fill
from prometheus_client.parser import text_string_to_metric_families
from server import free_port

from producer.exits import INTERRUPTED
from worker.contract.embedded import EmbeddedRedis
from worker.contract.jobs import JobStore
from worker.contract.messages import QUEUE, Failure, ImageResult, Timing
from worker.contract.processes import start_child, stop_child
from worker.measure import BOUNDS_S, Figures


def sample(text: str, name: str, **labels: str) -> float:
    found = [
        one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
        if one.name == name and labels.items() <= one.labels.items()
    ]
    assert found, f"{name} {labels} is not told"
    return sum(found)


@pytest.mark.integration
def test_a_worker_s_figures_are_those_of_its_records(
    server: EmbeddedRedis, client: redis.Redis, crew: Crew, tmp_path: Path
) -> None:
    photos = fill(tmp_path / "photos", 60)
    photos[0].write_bytes(b"no image")
    photos[1].write_bytes(b"")
    port, out = free_port(), tmp_path / "out.jsonl"
    worker = crew.start(server.url, monitor_port=str(port))
    done = run(
        "producer", "submit", str(tmp_path / "photos"), "--out", str(out), broker_url=server.url
    )
    assert done.returncode == 3, done.stderr
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = answer.read().decode()
    assert worker.stop() == 0
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert sample(text, "wanwu_images_total", status="ok") == 58
    assert sample(text, "wanwu_images_total", status="failed") == 2
    assert sample(text, "wanwu_images_total", code="empty_file") == 1
    for stage in ("queue", "decode", "infer", "total"):
        times = [t for line in lines if (t := line["timing"][f"{stage}_ms"]) is not None]
        assert sample(text, "wanwu_stage_seconds_count", stage=stage) == len(times)
        told_s = sample(text, "wanwu_stage_seconds_sum", stage=stage)
        assert told_s == pytest.approx(sum(times) / 1000, rel=0.01)
    assert sample(text, "wanwu_batch_images_sum") == 58
    assert sample(text, "wanwu_batch_images_bucket", le="+Inf") >= 58 / 4
    assert sample(text, "wanwu_worker_healthy") == 1
    assert sample(text, "wanwu_images_in_worker", where="held") == 0
    assert sample(text, "wanwu_model_info", device="cpu", engine="torchscript") == 1
    assert sample(text, "wanwu_last_image_timestamp_seconds") > 1.7e9
    assert sample(text, "process_resident_memory_bytes") > 1e8
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here (apt install prometheus)")
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_times_are_counted_below_the_bounds_that_they_do_not_exceed() -> None:
    figures = Figures(lambda: 7.0)
    bad = Failure("empty_file", "read", "")
    figures.add(
        [
            ImageResult(path="/a", timing=Timing(read_ms=1.0, infer_ms=7_200_000.0)),
            ImageResult(path="/b", timing=Timing(read_ms=1.1), error=bad),
        ]
    )
    counts, sum_s = figures.stages()["read"]
    assert (counts[0], counts[1], sum(counts)) == (1, 1, 2)
    assert sum_s == pytest.approx(0.0021)
    counts, _ = figures.stages()["infer"]
    assert counts == [0] * len(BOUNDS_S) + [1]
    assert figures.codes() == {"": 1, "empty_file": 1}
    assert (figures.images, figures.failed, figures.last_at_s) == (2, 1, 7.0)


@pytest.mark.integration
def test_the_exporter_tells_the_backlog_at_every_moment(
    server: EmbeddedRedis, client: redis.Redis, crew: Crew, tmp_path: Path
) -> None:
    fill(tmp_path / "photos", 400, (1600, 1200))
    port = free_port()
    exporter = start_child(
        [sys.executable, "-m", "producer.cli", "exporter", "--port", str(port)],
        cwd=ROOT,
        env=environment(broker_url=server.url),
        stderr=subprocess.PIPE,
    )
    assert exporter.stderr is not None
    try:
        assert b"answering at" in exporter.stderr.readline()

        def ask() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                return str(answer.read().decode())

        ends_s = time.monotonic() + 20
        while True:
            try:
                idle = ask()
                break
            except OSError:
                assert time.monotonic() < ends_s
                time.sleep(0.05)
        assert sample(idle, "wanwu_redis_up") == 1
        assert sample(idle, "wanwu_backlog_images") == 0
        words = ("producer", "submit", str(tmp_path / "photos"), "--no-wait")
        job = run(*words, broker_url=server.url).stdout.strip()
        time.sleep(1)
        waiting = ask()
        assert sample(waiting, "wanwu_backlog_images") == 400
        assert sample(waiting, "wanwu_messages", where="waiting") == client.llen(QUEUE) > 5
        assert sample(waiting, "wanwu_oldest_waiting_seconds") >= 1
        crew.start(server.url)
        jobs, seen = JobStore(client, 60), list[float]()
        while not jobs.get(job).finished:
            before = jobs.get(job).outstanding
            told = sample(ask(), "wanwu_backlog_images")
            assert jobs.get(job).outstanding <= told <= before
            seen.append(told)
        assert len(set(seen)) > 3
        done = ask()
        assert sample(done, "wanwu_backlog_images") == 0
        assert sample(done, "wanwu_jobs", state="finished") == 1
        assert sample(done, "wanwu_oldest_waiting_seconds") == 0
    finally:
        assert stop_child(exporter, 10) == INTERRUPTED
        exporter.stderr.close()


@pytest.mark.integration
def test_a_real_prometheus_counts_what_the_producer_counted(
    server: EmbeddedRedis, client: redis.Redis, crew: Crew, tmp_path: Path
) -> None:
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not here (apt install prometheus)")
    fill(tmp_path / "photos", 100)
    worker_port, own_port = free_port(), free_port()
    worker = crew.start(server.url, monitor_port=str(worker_port))
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        f"rule_files: [{ROOT / 'ops' / 'prometheus' / 'alerts.yml'}]\n"
        "scrape_configs:\n"
        f"  - {{job_name: workers, static_configs: [{{targets: ['127.0.0.1:{worker_port}']}}]}}\n",
        encoding="utf-8",
    )
    with (tmp_path / "prometheus.log").open("wb") as log:
        prometheus = start_child(
            [
                *(program, f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}"),
                f"--web.listen-address=127.0.0.1:{own_port}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )

    def query(expression: str) -> list[tuple[float, float]]:
        words = urllib.parse.urlencode({"query": expression})
        address = f"http://127.0.0.1:{own_port}/api/v1/query?{words}"
        with urllib.request.urlopen(address, timeout=5) as answer:
            found = json.load(answer)["data"]["result"]
        return [(float(at), float(n)) for one in found for at, n in one["values"]]

    try:
        ends_s = time.monotonic() + 30
        while True:
            try:
                if query("up[10s]"):
                    break
            except OSError:
                pass
            assert time.monotonic() < ends_s
            time.sleep(0.1)
        time.sleep(2)
        # The list over and over, until it is long enough to be measured.
        paths = "".join(f"{path}\n" for path in (tmp_path / "photos").rglob("*.jpg")) * 30
        began_s = time.time()
        done = subprocess.run(
            [sys.executable, "-m", "producer.cli", "submit", "-"],
            cwd=ROOT,
            env=environment(broker_url=server.url),
            input=paths,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        last = done.stderr.strip().splitlines()[-1]
        (told_rate,) = re.findall(r"([\d.,]+) img/s", last)
        counts, ends_s = [0.0], time.monotonic() + 20
        while counts[-1] < 3000 and time.monotonic() < ends_s:
            time.sleep(0.5)
            passed_s = int(time.time() - began_s) + 3
            points = query(f"wanwu_images_total{{status='ok'}}[{passed_s}s]")
            counts = [n for _, n in points]
        assert counts[-1] == 3000
        assert counts == sorted(counts)
        # From the last scrape before anything was done to the first that saw all.
        first = max(index for index, n in enumerate(counts) if n == 0)
        full = counts.index(3000)
        rate = 3000 / (points[full][0] - points[first][0])
        assert rate == pytest.approx(float(told_rate.replace(",", "")), rel=0.25)
    finally:
        stop_child(prometheus, 10)
    assert worker.stop() == 0
