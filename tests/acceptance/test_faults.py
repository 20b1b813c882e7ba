"""What becomes of images when workers die over them, from outside: real workers, real Redis."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import LONG, PATIENCE_S, ROOT, STEADY, Fleet, Worker, environment, run, until
from faulty_worker import EXIT_CODE, POISON
from images import encoded, fill, picture
from server import free_port

from producer.cli.exit_codes import SOME_FAILED
from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.messages import TASK, Chunk, ImageRef, task_id
from worker.contract.queue.app import make_app
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings
from worker.contract.stores.dead_letters import DeadLetters
from worker.contract.stores.jobs import JobStore

pytestmark = pytest.mark.integration

# So long a dead worker's chunks wait; users have a minute.
LEASE_S = "2"
FAULTY = (str(ROOT / "tests" / "support" / "faulty_worker.py"),)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Workers that end with their test: each counts who takes its chunks."""
    (tmp_path / "logs").mkdir()
    with ExitStack() as stack:
        yield Fleet(tmp_path / "logs", stack)


def records(file: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    found = {line["path"]: line for line in lines}
    assert len(found) == len(lines), "an image has two records"
    return found


def supervise(start: Callable[[], Worker], done: Callable[[], bool]) -> int:
    """Start the worker, and again whenever it dies of itself; return how often it did."""
    deaths, worker, ends_s = 0, start(), time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < ends_s, worker.text
        if (code := worker.process.poll()) is not None:
            assert code == EXIT_CODE, worker.text
            deaths += 1
            worker = start()
        time.sleep(0.05)
    assert worker.stop() == 0
    return deaths


def leftovers(client: redis.Redis) -> list[Any]:
    """Whatever lies in Redis that belongs to work under way."""
    kinds = ("blob:*", "attempts:*")
    found: list[Any] = [key for kind in kinds for key in client.keys(f"{KEYS.prefix}{kind}")]
    return found + [
        key
        for key in (KEYS.queue, KEYS.processing, KEYS.unacked, KEYS.unacked_index)
        if client.exists(key)
    ]


def test_an_image_that_kills_workers_is_named_after_three_of_them(
    server: EmbeddedRedis, client: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    fill(photos, 40)
    culprit = photos / "17-bad.jpg"
    culprit.write_bytes(encoded(picture(5, (64, 48))) + POISON)
    out = tmp_path / "out.jsonl"
    sent = run("producer", "submit", str(photos), "--blobs", "--no-wait", broker_url=server.url)
    assert sent.returncode == 0, sent.stderr
    job = sent.stdout.split()[0]

    def start() -> Worker:
        return fleet.start(server.url, program=FAULTY, visibility_timeout_s=LEASE_S)

    def done() -> bool:
        return client.hget(f"{KEYS.prefix}job:{job}", "done") == b"41"

    deaths = supervise(start, done)
    got = run("producer", "results", job, "--out", str(out), broker_url=server.url)
    assert got.returncode == SOME_FAILED, got.stderr
    found = records(out)
    assert deaths == 3
    assert len(found) == 41
    failed = {path: one["error"] for path, one in found.items() if one["status"] == "failed"}
    (error,) = failed.values()
    assert list(failed) == [str(culprit)]
    assert (error["code"], error["stage"]) == ("poison", "job")
    (letter,) = DeadLetters(client).list()
    assert letter.code == "poison"
    assert letter.chunk is not None
    assert [image.path for image in letter.chunk.images] == [str(culprit)]
    # The bytes of what lies there for a person are kept; nothing else is.
    kept = [image.blob.encode() for image in letter.chunk.images if image.blob]
    assert leftovers(client) == kept


def test_what_a_killed_worker_held_is_taken_over_when_its_lease_ends(
    server: EmbeddedRedis, client: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    fill(tmp_path / "photos", 300)
    first = fleet.start(server.url, program=STEADY, visibility_timeout_s=LEASE_S)
    sent = run("producer", "submit", str(tmp_path / "photos"), "--no-wait", broker_url=server.url)
    job = sent.stdout.split()[0]
    until(lambda: bool(client.hlen(KEYS.unacked)))
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    assert client.hlen(KEYS.unacked) > 0
    fleet.start(server.url, visibility_timeout_s=LEASE_S)
    until(lambda: client.hget(f"{KEYS.prefix}job:{job}", "done") == b"300")
    out = tmp_path / "out.jsonl"
    got = run("producer", "results", job, "--out", str(out), broker_url=server.url)
    assert got.returncode == 0, got.stderr
    assert {one["status"] for one in records(out).values()} == {"ok"}
    until(lambda: not leftovers(client))


def test_a_worker_that_stands_still_loses_its_chunks_and_nothing_is_counted_twice(
    server: EmbeddedRedis, client: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    fill(tmp_path / "photos", 400)
    first, second = (
        fleet.start(server.url, program=STEADY, visibility_timeout_s=LEASE_S, ready=False)
        for _ in range(2)
    )
    for worker in (first, second):
        worker.wait_for("worker.ready")
    out = tmp_path / "out.jsonl"
    sent = run("producer", "submit", str(tmp_path / "photos"), "--no-wait", broker_url=server.url)
    job = sent.stdout.split()[0]
    until(lambda: bool(client.hlen(KEYS.unacked)))
    first.process.send_signal(signal.SIGSTOP)
    try:
        until(lambda: client.hget(f"{KEYS.prefix}job:{job}", "done") == b"400")
    finally:
        first.process.send_signal(signal.SIGCONT)
    # It ends what it was at, or gives it back, though the other has done it by now.
    assert first.stop() == 0
    until(lambda: not leftovers(client))
    assert second.stop() == 0
    got = run("producer", "results", job, "--out", str(out), broker_url=server.url)
    assert got.returncode == 0, got.stderr
    assert len(records(out)) == 400
    assert client.hget(f"{KEYS.prefix}job:{job}", "done") == b"400"
    assert not leftovers(client)


def test_when_the_inference_thread_dies_others_tag_what_it_held(
    server: EmbeddedRedis, client: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    fill(tmp_path / "photos", 60)
    fault = tmp_path / "fault"
    # Longer than this test may last: nobody can wait for such a lease to end.
    lease_s = str(int(4 * PATIENCE_S))
    dying = fleet.start(
        server.url,
        program=FAULTY,
        variables={"FAULT_FILE": str(fault)},
        visibility_timeout_s=lease_s,
    )
    fault.touch()
    out = tmp_path / "out.jsonl"
    sent = run("producer", "submit", str(tmp_path / "photos"), "--no-wait", broker_url=server.url)
    job = sent.stdout.split()[0]
    assert dying.process.wait(PATIENCE_S) == os.EX_SOFTWARE
    assert not fault.exists()
    fleet.start(server.url, visibility_timeout_s=lease_s)
    until(lambda: client.hget(f"{KEYS.prefix}job:{job}", "done") == b"60")
    got = run("producer", "results", job, "--out", str(out), broker_url=server.url)
    assert got.returncode == 0, got.stderr
    assert {one["status"] for one in records(out).values()} == {"ok"}
    until(lambda: not leftovers(client))


def test_what_is_no_message_lies_with_the_dead_letters_and_work_goes_on(
    server: EmbeddedRedis, client: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    fill(tmp_path / "photos", 8)
    worker = fleet.start(server.url)
    garbage = [b"", b"\xff\xfe", b"{}", b"[]", b"null", b'{"body": 1}', b"[" * 5000]
    for raw in garbage:
        client.lpush(KEYS.queue, raw)
    out = tmp_path / "out.jsonl"
    done = run(
        "producer", "submit", str(tmp_path / "photos"), "--out", str(out), broker_url=server.url
    )
    assert done.returncode == 0, done.stderr
    assert len(records(out)) == 8
    letters = DeadLetters(client).list()
    assert {one.code for one in letters} == {"unreadable_message"}
    assert len(letters) == len(garbage)
    assert worker.process.poll() is None
    assert worker.text.count("message.unreadable") == len(garbage)
    assert "Traceback" not in worker.text
    assert not leftovers(client)
    shutil.rmtree(tmp_path / "photos")


def test_a_batch_that_does_not_fit_costs_nothing_but_an_alarm(
    server: EmbeddedRedis, client: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    fill(tmp_path / "photos", 64)
    worker = fleet.start(server.url, program=FAULTY, variables={"FITTING_BATCH": "2"})
    out = tmp_path / "out.jsonl"
    done = run(
        "producer", "submit", str(tmp_path / "photos"), "--out", str(out), broker_url=server.url
    )
    assert done.returncode == 0, done.stderr
    found = records(out)
    assert len(found) == 64
    assert {one["status"] for one in found.values()} == {"ok"}
    assert {one["batch_size"] for one in found.values()} <= {1, 2}
    assert worker.text.count("batch.out_of_memory") == 1
    app = make_app(Settings(broker_url=SecretUrl(server.url)), stores_results=False)
    (stats,) = app.control.inspect(timeout=PATIENCE_S, limit=1).stats().values()
    assert stats["tagger"]["max_batch"] == 2


def test_health_is_green_at_work_and_red_after_the_threads_death(
    server: EmbeddedRedis, client: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    fill(tmp_path / "photos", 8)
    port, fault = str(free_port()), tmp_path / "fault"
    worker = fleet.start(
        server.url, program=FAULTY, variables={"FAULT_FILE": str(fault)}, monitor_port=port
    )
    asked = run("worker", "health", monitor_port=port)
    assert (asked.returncode, asked.stdout) == (0, "healthy\n")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz") as answer:
        assert json.load(answer) == {"ok": True, "problem": None}
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/etc/passwd")
    fault.touch()
    run("producer", "submit", str(tmp_path / "photos"), "--no-wait", broker_url=server.url)
    until(lambda: not fault.exists())
    until(lambda: run("worker", "health", monitor_port=port).returncode == 1)
    assert worker.process.wait(PATIENCE_S) == os.EX_SOFTWARE


def test_health_is_red_while_the_model_hangs_and_others_take_the_chunks(
    server: EmbeddedRedis, client: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    fill(tmp_path / "photos", 40)
    port, hang = str(free_port()), tmp_path / "hang"
    worker = fleet.start(
        server.url,
        program=FAULTY,
        variables={"HANG_FILE": str(hang)},
        monitor_port=port,
        stall_timeout_s="2",
        visibility_timeout_s=LEASE_S,
    )
    hang.touch()
    sent = run("producer", "submit", str(tmp_path / "photos"), "--no-wait", broker_url=server.url)
    job = sent.stdout.split()[0]
    until(lambda: run("worker", "health", monitor_port=port).returncode == 1)
    reply = run("worker", "health", monitor_port=port)
    assert "no image has been done for" in reply.stderr
    # It is alive, and renews nothing.
    assert worker.process.poll() is None
    fleet.start(server.url, visibility_timeout_s=LEASE_S)
    until(lambda: client.hget(f"{KEYS.prefix}job:{job}", "done") == b"40")
    hang.unlink()


def test_dead_letters_are_shown_and_sent_again(
    server: EmbeddedRedis, client: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    (photo,) = fill(tmp_path / "photos", 1)
    blob = KEYS.blob("old", 0, 0)
    client.set(blob, photo.read_bytes(), ex=3600)
    images = (ImageRef(str(photo)), ImageRef("/gone.jpg", blob=blob))
    dead = DeadLetters(client)
    dead.add_chunk(Chunk(job="old", seq=0, images=images, sent_at_s=1.0), "poison", "it kills")
    dead.add_unreadable(b"\x1b[31m?", "no message")
    shown = run("producer", "status", broker_url=server.url)
    assert shown.returncode == 0, shown.stderr
    assert "old-0" in shown.stdout
    assert "it kills" in shown.stdout
    assert "\x1b" not in shown.stdout
    assert run("producer", "requeue", "none", broker_url=server.url).returncode == 2
    assert run("producer", "requeue", broker_url=server.url).returncode == 2
    fleet.start(server.url)
    again = run("producer", "requeue", "--all", broker_url=server.url)
    # One of them is no message that could be sent.
    assert again.returncode == 3, again.stderr
    job, out = again.stdout.strip(), tmp_path / "out.jsonl"
    got = run("producer", "results", job, "--wait", "--out", str(out), broker_url=server.url)
    assert got.returncode == 0, got.stderr
    assert {one["status"] for one in records(out).values()} == {"ok"}
    assert set(records(out)) == {str(photo), "/gone.jpg"}
    (left,) = dead.list()
    assert left.code == "unreadable_message"
    assert not leftovers(client)
    dropped = run("producer", "requeue", "--all", "--drop", broker_url=server.url)
    assert dropped.returncode == 0
    assert not dead.list()


def test_a_chunk_of_another_version_ends_its_job_and_lies_with_the_dead_letters(
    server: EmbeddedRedis, client: redis.Redis, fleet: Fleet
) -> None:
    worker = fleet.start(server.url)
    app = make_app(Settings(broker_url=SecretUrl(server.url)), stores_results=False)
    jobs = JobStore(client, 60)
    job = jobs.create().id
    wires: list[dict[str, Any]] = [
        {"v": 0, "job": job, "seq": 0, "images": [{"path": "/a"}, {"path": "/b"}]},
        {"v": 1, "job": job, "seq": 1, "images": [{"path": "/a", "blob": "wanwu:jobs"}]},
        {"v": 1, "job": job, "seq": 2, "images": [{"path": 1}], "threshold": float("nan")},
    ]
    jobs.set_sent(job, images=4, chunks=3)
    jobs.set_state(job, "submitted")
    for seq, wire in enumerate(wires):
        app.send_task(TASK, args=[wire], task_id=task_id(job, seq))
    until(lambda: jobs.get(job).finished)
    assert jobs.get(job).failed == 4
    assert DeadLetters(client).count() == 3
    assert client.exists("wanwu:jobs")
    got = run("producer", "results", job, broker_url=server.url)
    lines = [json.loads(line) for line in got.stdout.splitlines()]
    assert [line["path"] for line in lines if line["error"]["code"] == "lost"] == ["/a", "/b", "/a"]
    # Of what is no path, nobody can say more.
    assert got.stderr.count("has no results") == 1
    assert worker.process.poll() is None
    assert "Traceback" not in worker.text
    until(lambda: not leftovers(client))


def test_a_submit_that_is_killed_goes_on_where_it_broke_off(
    server: EmbeddedRedis, client: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    wanted = {str(path) for path in fill(tmp_path / "photos", 600)}
    fleet.start(server.url, program=STEADY)
    out = tmp_path / "out.jsonl"
    argv = ("submit", str(tmp_path / "photos"), "--out", str(out), "--chunk-size", "8")
    for turn in range(3):
        resume = ["--resume"] if turn else []
        producer = subprocess.Popen(
            [sys.executable, "-m", "producer.cli", *argv, *resume],
            env=environment(broker_url=server.url),
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )
        lines = len(out.read_bytes().splitlines()) if out.exists() and turn else 0
        until(lambda lines=lines: out.exists() and len(out.read_bytes().splitlines()) > lines + 40)  # type: ignore[misc]
        producer.kill()
        producer.wait()
    # The last line may be torn, as by a crash in the middle of a write.
    with out.open("ab") as file:
        file.write(b'{"path": "/torn')
    done = run("producer", *argv, "--resume", broker_url=server.url)
    assert done.returncode == 0, done.stderr
    assert "resuming: " in done.stderr
    found = records(out)
    assert set(found) == wanted
    assert {one["status"] for one in found.values()} == {"ok"}
    assert not out.with_name("out.jsonl.job").exists()
    app = make_app(Settings(broker_url=SecretUrl(server.url)), stores_results=False)
    (stats,) = app.control.inspect(timeout=PATIENCE_S, limit=1).stats().values()
    tagged = stats["tagger"]["images"] - stats["tagger"]["failed"]
    # A kill costs what the worker has in hand (12 images and the chunk that came last), and what it
    # takes up before it asks again whether the job is cancelled: 0.5 s of 100 images a second. That
    # is 70; were nothing inherited, it would be some 500.
    assert tagged <= 600 + 3 * 100
    again = run("producer", *argv, "--resume", broker_url=server.url)
    assert again.returncode == 0, again.stderr
    assert len(records(out)) == 600


def test_what_is_no_ledger_is_refused_and_kept(
    server: EmbeddedRedis, client: redis.Redis, tmp_path: Path
) -> None:
    fill(tmp_path / "photos", 1)
    out = tmp_path / "out.jsonl"
    out.write_text("no record\n", encoding="utf-8")
    argv = ("submit", str(tmp_path / "photos"), "--out", str(out), "--resume")
    done = run("producer", *argv, broker_url=server.url)
    assert done.returncode == 2
    assert "line 1: this is not a record" in done.stderr
    assert out.read_text(encoding="utf-8") == "no record\n"


def test_a_full_disk_is_one_clear_line_and_nothing_is_lost(
    server: EmbeddedRedis, client: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    fill(tmp_path / "photos", 40)
    fleet.start(server.url)
    full, out = tmp_path / "full.jsonl", tmp_path / "out.jsonl"
    full.symlink_to("/dev/full")
    argv = ("submit", str(tmp_path / "photos"))
    done = run("producer", *argv, "--out", str(full), broker_url=server.url)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: the disk is full: make room")
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "producer results" in line]
    job = line.split("producer results ")[1].split()[0]
    got = run("producer", "results", job, "--wait", "--out", str(out), broker_url=server.url)
    assert got.returncode == 0, got.stderr
    assert len(records(out)) == 40


def test_a_short_campaign_of_faults_loses_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "ops/faults/campaign.py")),
            *("--campaigns", "1", "--images", "1200", "--every", "0.3", "--most", "4"),
            *("--json", str(tmp_path / "seen.json")),
        ],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (seen,) = json.loads((tmp_path / "seen.json").read_text(encoding="utf-8"))
    assert sum(seen["faults"].values()) >= 3
    assert seen["problems"] == []


def test_a_redis_that_is_filled_in_the_middle_of_jobs_costs_time_alone() -> None:
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "ops/faults/full.py")),
            *("--fills", "2", "--images", "300"),
        ],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    seen = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["blobs"] for one in seen] == [False, True]
    assert [one["problems"] for one in seen] == [[], []]


@LONG
def test_a_crowd_of_bad_clients_costs_others_nothing() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "ops/faults/clients.py")],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
