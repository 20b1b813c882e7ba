"""`producer status`: for a person, for a program, and while the work goes on."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import PATIENCE_S, ROOT, STEADY, Fleet, environment, run, until
from images import fill
from proxy import Proxy
from rich.cells import cell_len
from rich.console import Console
from server import Server

from producer.backend.workers import WorkerInfo
from producer.console.paths import about
from producer.monitoring import status_tables as tables
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.stores.dead_letters import DeadLetter
from worker.contract.stores.jobs import Job, JobStore


def text(table: object, width: int = 200) -> str:
    written = io.StringIO()
    Console(width=width, file=written).print(table)
    return written.getvalue()


def test_a_job_under_way_has_a_pace_and_a_time_left() -> None:
    job = Job(id="j", created_at_s=0, state="submitted", images=1000, done=250, failed=3)
    shown = text(tables.jobs_table([job], {"j": 12.5}))
    assert "250 (25%)" in shown
    assert "12.5" in shown
    assert "1 min" in shown
    still = text(tables.jobs_table([job], {"j": 0.0}))
    assert "1 min" not in still
    done = Job(id="k", created_at_s=0, state="submitted", images=2, done=2)
    assert "100%" in text(tables.jobs_table([done], {"k": 0.0}))


JOBS = [
    Job(
        id=f"20261128-181502-5f3a9{number}",
        created_at_s=0,
        state="submitted",
        images=1_234_567,
        done=34_567,
        failed=12,
        about="/mnt/照片/a long way/2026 (+2)",
        labels=493,
    )
    for number in range(3)
]


@pytest.mark.parametrize("width", [200, 120, 100, 80, 60])
def test_ids_are_whole_at_any_width(width: int) -> None:
    shown = text(tables.jobs_table(JOBS, {JOBS[0].id: 101.2}, width), width)
    assert all(job.id in shown for job in JOBS)
    letters = [
        DeadLetter(id=f"{job.id}-12", code="poison", reason="three workers died", at_s=0, raw="x")
        for job in JOBS
    ]
    shown = text(tables.dead_table(letters, width), width)
    assert all(letter.id in shown for letter in letters)


def test_in_80_columns_it_is_told_what_a_job_is_of() -> None:
    shown = text(tables.jobs_table(JOBS, {}, 80), 80)
    assert "2026 (+2)" in shown
    assert "submitted" in shown
    assert "3%" in shown
    assert max(map(cell_len, shown.splitlines())) <= 80
    assert len(shown.splitlines()) == 1 + len(JOBS)
    worker = WorkerInfo(
        name="worker-1234567@a-node.with.a-long.name", model=f"{'m' * 40}@0", device="cuda:0"
    )
    shown = text(tables.workers_table([worker], 80), 80)
    assert "worker-1234567@" in shown
    assert "cuda:0" in shown
    assert len(shown.splitlines()) == 2


def test_what_a_job_is_of_cannot_write_to_the_terminal(client: redis.Redis) -> None:
    job = JobStore(client, 60).create(about([os.fsdecode(b"\x1b]0;x\x07\xff[red]"), "b"]), 1)
    for table in (tables.jobs_table([job], {}), tables.job_details(job)):
        shown = text(table)
        assert "\x1b" not in shown
        assert r"\x1b]0;x\x07\udcff[red] (+1)" in shown


def test_a_priority_is_shown_where_it_is_not_the_usual_one(client: redis.Redis) -> None:
    jobs = JobStore(client, 60)
    low, usual = jobs.create(priority="low"), jobs.create()
    shown = text(tables.jobs_table([low, usual], {}))
    assert [line.split("│")[9].strip() for line in shown.splitlines() if low.id in line] == ["low"]
    assert "priority" not in text(tables.jobs_table([usual], {}))
    assert "low" in text(tables.job_details(low))
    assert "priority" not in text(tables.job_details(usual))


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
    shown = text(tables.job_details(found))
    assert shown.index("3 truncated") < shown.index("1 not_found")


def test_a_watch_outlives_redis_and_connections_that_vanish(tmp_path: Path) -> None:
    with Server(tmp_path) as server, closing(Proxy(server.port)) as proxy:
        watching = subprocess.Popen(
            [sys.executable, "-m", "producer.cli", "status", "--watch"],
            cwd=ROOT,
            env=environment(broker_url=server.url.replace(str(server.port), str(proxy.port)))
            | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert watching.stdout is not None

        def read_until(argv: str) -> None:
            line = ""
            while argv not in line:
                line = watching.stdout.readline() if watching.stdout else ""
                assert line, watching.wait()

        read_until("worker")
        server.stop()
        read_until("waiting: cannot reach Redis")
        server.start()
        read_until("worker")
        proxy.forget()
        read_until("worker")
        read_until("worker")
        server.refuse("OOM")
        read_until("refuses work: OOM")
        server.accept("OOM")
        read_until("worker")
        watching.send_signal(signal.SIGINT)
        watching.communicate(timeout=PATIENCE_S)
        assert watching.returncode == 130


@pytest.mark.parametrize("verb", ["status", "cancel", "results"])
def test_an_id_that_no_job_has_is_told_in_a_sentence(server: EmbeddedRedis, verb: str) -> None:
    empty = run("producer", verb, "", broker_url=server.url)
    assert (empty.returncode, "the id of a job cannot be empty" in empty.stderr) == (2, True)
    odd = run("producer", verb, os.fsdecode(b"\xff"), broker_url=server.url)
    assert (odd.returncode, "there is no job \\udcff" in odd.stderr) == (1, True)


@pytest.mark.integration
def test_status_tells_people_and_programs_the_same(
    server: EmbeddedRedis, client: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    photos = fill(tmp_path / "photos", 800)
    photos[0].write_bytes(b"no image")
    # Ten images a second: it is at work for as long as this test looks at it.
    slow = fleet.start(server.url, program=(STEADY[0], "400"))
    sent = run("producer", "submit", str(tmp_path / "photos"), "--no-wait", broker_url=server.url)
    job = sent.stdout.strip()
    found: dict[str, Any] = {}

    def look() -> bool:
        reply = run("producer", "status", "--json", broker_url=server.url)
        found.update(json.loads(reply.stdout))
        both = (*found["jobs"], *found["workers"])
        return len(both) > 1 and all(one["images_per_s"] for one in both)

    # Within one look no chunk may end, or the worker may be too busy to answer.
    until(look)
    (seen,), (worker,) = found["jobs"], found["workers"]
    assert (seen["id"], seen["state"], seen["images"]) == (job, "submitted", 800)
    assert seen["outstanding"] == 800 - seen["done"] > 0
    assert seen["images_per_s"] > 0
    assert worker["images_per_s"] > 0
    assert worker["device"] == "cpu"
    assert found["dead_letters"] == 0
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
    assert any("images per second" in line for line in lines)
    slow.stop()
    fleet.start(server.url, program=(STEADY[0], "0"))
    out = str(tmp_path / "out.jsonl")
    run("producer", "results", job, "--wait", "--out", out, broker_url=server.url)
    done = run("producer", "status", job, broker_url=server.url).stdout
    assert "1 not_an_image" in done
    assert "finished" in done
    assert run("producer", "status", "--json", "--watch", broker_url=server.url).returncode == 2
    assert run("producer", "status", "none", broker_url=server.url).returncode == 1
