"""`producer status`: for a person, for a program, and while the work goes on."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import PATIENCE_S, ROOT, STEADY, Crew, environment, run, until
from images import fill
from rich.console import Console

from producer import report
from worker.contract.embedded import EmbeddedRedis
from worker.contract.jobs import Job, JobStore


def text(table: object) -> str:
    written = io.StringIO()
    Console(width=200, file=written).print(table)
    return written.getvalue()


def test_a_job_under_way_has_a_pace_and_a_time_left() -> None:
    job = Job(id="j", created_at_s=0, state="submitted", images=1000, done=250, failed=3)
    shown = text(report.jobs_table([job], {"j": 12.5}))
    assert "250 (25%)" in shown
    assert "12.5" in shown
    assert "1 min" in shown
    still = text(report.jobs_table([job], {"j": 0.0}))
    assert "1 min" not in still
    done = Job(id="k", created_at_s=0, state="submitted", images=2, done=2)
    assert "100%" in text(report.jobs_table([done], {"k": 0.0}))


def test_failures_are_told_by_code(client: redis.Redis) -> None:
    jobs = JobStore(client, 60)
    job = jobs.create().id
    jobs.set_sent(job, images=9, chunks=2)
    jobs.finish_chunk(job, 0, images=4, failed=3, codes={"not_found": 1, "truncated": 2})
    jobs.finish_chunk(job, 1, images=5, failed=1, codes={"truncated": 1})
    jobs.finish_chunk(job, 1, images=5, failed=1, codes={"truncated": 1})
    found = jobs.get(job)
    assert (found.done, found.failed) == (9, 4)
    assert found.codes == {"not_found": 1, "truncated": 3}
    shown = text(report.job_details(found))
    assert shown.index("3 truncated") < shown.index("1 not_found")


@pytest.mark.integration
def test_status_tells_people_and_programs_the_same(
    server: EmbeddedRedis, client: redis.Redis, crew: Crew, tmp_path: Path
) -> None:
    photos = fill(tmp_path / "photos", 800)
    photos[0].write_bytes(b"no image")
    # Ten images a second: it is at work for as long as this test looks at it.
    slow = crew.start(server.url, program=(STEADY[0], "400"))
    sent = run("producer", "submit", str(tmp_path / "photos"), "--no-wait", broker_url=server.url)
    job = sent.stdout.strip()
    found: dict[str, Any] = {}

    def look() -> bool:
        told = run("producer", "status", "--json", broker_url=server.url)
        found.update(json.loads(told.stdout))
        return all(one["images_per_s"] for one in (*found["jobs"], *found["workers"]))

    # A chunk ends now and then, and no look is so short that it must see one.
    until(look)
    (seen,), (worker,) = found["jobs"], found["workers"]
    assert (seen["id"], seen["state"], seen["images"]) == (job, "submitted", 800)
    assert seen["outstanding"] == 800 - seen["done"] > 0
    assert seen["images_per_s"] > 0
    assert worker["images_per_s"] > 0
    assert worker["device"] == "cpu"
    assert found["given_up"] == 0
    watching = subprocess.Popen(
        [sys.executable, "-m", "producer.cli", "status", job, "--watch"],
        cwd=ROOT,
        env=environment(broker_url=server.url) | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    lines: list[str] = []
    while sum("outstanding" in line for line in lines) < 3:
        lines.append(watching.stdout.readline())
        assert lines[-1], lines
    watching.send_signal(signal.SIGINT)
    watching.communicate(timeout=PATIENCE_S)
    assert watching.returncode == 130
    assert any("images a second" in line for line in lines)
    slow.stop()
    crew.start(server.url, program=(STEADY[0], "0"))
    out = str(tmp_path / "out.jsonl")
    run("producer", "results", job, "--wait", "--out", out, broker_url=server.url)
    done = run("producer", "status", job, broker_url=server.url).stdout
    assert "1 not_an_image" in done
    assert "finished" in done
    assert run("producer", "status", "--json", "--watch", broker_url=server.url).returncode == 2
    assert run("producer", "status", "none", broker_url=server.url).returncode == 1
