"""What a worker tells Prometheus: names, units, and numbers that are those of its work."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import redis
from conftest import PATIENCE_S, ROOT, STEADY, Fleet, environment, run, until
from images import fill
from prometheus_client.parser import text_string_to_metric_families
from server import free_port

from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.local.subprocesses import start_child, stop_child
from worker.contract.stops import INTERRUPTED
from worker.contract.stores.jobs import JobStore


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
    server: EmbeddedRedis, client: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    photos = fill(tmp_path / "photos", 60)
    photos[0].write_bytes(b"no image")
    photos[1].write_bytes(b"")
    port, out = free_port(), tmp_path / "out.jsonl"
    worker = fleet.start(server.url, monitor_port=str(port))
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


@pytest.mark.integration
def test_the_exporter_tells_the_backlog_at_every_moment(
    server: EmbeddedRedis, client: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    fill(tmp_path / "photos", 400)
    port = free_port()
    exporter = start_child(
        [sys.executable, "-m", "producer.cli", "exporter", "--port", str(port)],
        cwd=ROOT,
        env=environment(broker_url=server.url),
        stderr=subprocess.PIPE,
    )
    assert exporter.stderr is not None
    try:
        assert b"listening on" in exporter.stderr.readline()

        def ask() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                return str(answer.read().decode())

        def answers() -> bool:
            with suppress(OSError):
                return bool(ask())
            return False

        until(answers)
        idle = ask()
        assert sample(idle, "wanwu_redis_up") == 1
        assert sample(idle, "wanwu_backlog_images") == 0
        argv = ("producer", "submit", str(tmp_path / "photos"), "--no-wait")
        job = run(*argv, broker_url=server.url).stdout.strip()
        until(lambda: sample(ask(), "wanwu_oldest_waiting_seconds") >= 1)
        waiting = ask()
        assert sample(waiting, "wanwu_backlog_images") == 400
        assert sample(waiting, "wanwu_messages", where="waiting") == client.llen(KEYS.queue) > 5
        fleet.start(server.url, program=STEADY)
        jobs, seen = JobStore(client, 60), list[float]()
        while not jobs.get(job).finished:
            before = jobs.get(job).outstanding
            reply = sample(ask(), "wanwu_backlog_images")
            assert jobs.get(job).outstanding <= reply <= before
            seen.append(reply)
        assert len(set(seen)) > 3
        done = ask()
        assert sample(done, "wanwu_backlog_images") == 0
        assert sample(done, "wanwu_jobs", state="finished") == 1
        assert sample(done, "wanwu_oldest_waiting_seconds") == 0
    finally:
        assert stop_child(exporter, PATIENCE_S) == INTERRUPTED
        exporter.stderr.close()


@pytest.mark.integration
def test_a_real_prometheus_counts_what_the_producer_counted(
    server: EmbeddedRedis, client: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not here (apt install prometheus)")
    fill(tmp_path / "photos", 100)
    for other in fleet.workers:
        other.stop()
    worker_port, exporter_port, own_port = free_port(), free_port(), free_port()
    fleet.start(server.url, program=STEADY, monitor_port=str(worker_port))
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 250ms, evaluation_interval: 1s}\n"
        f"rule_files: [{ROOT / 'ops' / 'prometheus' / 'alerts.yml'}]\n"
        "scrape_configs:\n"
        "  - job_name: all\n"
        "    static_configs:\n"
        f"      - targets: ['127.0.0.1:{worker_port}', '127.0.0.1:{exporter_port}']\n",
        encoding="utf-8",
    )

    def query(expression: str) -> list[list[tuple[float, float]]]:
        """Return the points of each series."""
        argv = urllib.parse.urlencode({"query": expression, "time": time.time()})
        address = f"http://127.0.0.1:{own_port}/api/v1/query?{argv}"
        with urllib.request.urlopen(address, timeout=PATIENCE_S) as answer:
            found = json.load(answer)["data"]["result"]
        points = [one["values"] if "values" in one else [one["value"]] for one in found]
        return [[(float(at), float(n)) for at, n in series] for series in points]

    with ExitStack() as stack:
        log = stack.enter_context((tmp_path / "prometheus.log").open("wb"))
        for argv in (
            [sys.executable, "-m", "producer.cli", "exporter", "--port", str(exporter_port)],
            [
                *(program, f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}"),
                f"--web.listen-address=127.0.0.1:{own_port}",
            ],
        ):
            variables = environment(broker_url=server.url)
            child = start_child(argv, cwd=ROOT, env=variables, stdout=log, stderr=log)
            stack.callback(stop_child, child, PATIENCE_S)

        def is_up() -> bool:
            with suppress(OSError):
                return bool(query("sum(up) == 2"))
            return False

        until(is_up)
        # The list over and over, until it is long enough to be measured.
        paths = "".join(f"{path}\n" for path in (tmp_path / "photos").rglob("*.jpg")) * 15
        done = subprocess.run(
            [sys.executable, "-m", "producer.cli", "submit", "-"],
            cwd=ROOT,
            env=environment(broker_url=server.url),
            input=paths,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        until(
            lambda: (
                query("sum(wanwu_images_total{status='ok'})")[0][-1][1] == 1500
                and query("wanwu_backlog_images")[0][-1][1] == 0
            )
        )
        (counts,) = query("wanwu_images_total{status='ok'}[1h]")
        (waiting,) = query("wanwu_backlog_images[1h]")
    done_by_then = [n for _, n in counts]
    assert done_by_then == sorted(done_by_then)
    depths = [n for _, n in waiting]
    most = depths.index(max(depths))
    assert 0 < depths[most] <= 1500
    assert depths[:most] == sorted(depths[:most])
    assert depths[most:] == sorted(depths[most:], reverse=True)
    assert depths[-1] == 0
