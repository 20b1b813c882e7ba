"""Messages that leave the queue without a result: whoever waits is notified, counts are right."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import PATIENCE_S, ROOT, STEADY, Fleet, environment, run, until
from images import fill
from serving import serving

from producer import Client
from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.messages import TASK, Chunk, ImageRef, Record
from worker.contract.queue.app import make_app
from worker.contract.queue.fair import FairQueue
from worker.contract.queue.job_messages import LossCheck, chunks_in_redis, look_twice
from worker.contract.redis.connections import connect
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings
from worker.contract.stores.jobs import JobStore, LostChunk

# Some seconds of work for a worker.
IMAGES = 600


class Time:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def now(self) -> float:
        return self.now_s

    def sleep(self, pause_s: float) -> None:
        self.now_s += pause_s


class Sent:
    """A job whose chunks of two images wait in the queue."""

    def __init__(self, client: redis.Redis, url: str, chunks: int, jobs: JobStore) -> None:
        self.client: Any = client
        self.jobs = jobs
        self.id = jobs.create().id
        self.app = make_app(Settings(broker_url=SecretUrl(url)), stores_results=False)
        self.time = Time()
        self.check = LossCheck(client, jobs, self.id, now=self.time.now)
        jobs.set_sent(self.id, images=2 * chunks, chunks=chunks)
        for seq in range(chunks):
            self.publish(seq)
        jobs.set_state(self.id, "submitted")

    def publish(self, seq: int) -> None:
        chunk = Chunk(job=self.id, seq=seq, images=(ImageRef("/a"), ImageRef("/b")), sent_at_s=1.0)
        self.app.send_task(
            TASK, args=[chunk.to_wire()], task_id=chunk.task_id, queue="tag", argsrepr="(2 images)"
        )

    def message(self, seq: int) -> bytes:
        name = f'"{self.id}-{seq}"'.encode()
        messages: list[bytes] = self.client.lrange(KEYS.queue, 0, -1)
        return next(raw for raw in messages if name in raw)

    def look(self, seconds: float = 20.0) -> int:
        """Look again and again for so long."""
        lost, ends_s = 0, self.time.now_s + seconds
        while self.time.now_s < ends_s:
            lost += self.check.look()
            self.time.sleep(0.5)
        return lost


@pytest.fixture
def jobs(client: redis.Redis) -> JobStore:
    return JobStore(client, 3600)


@pytest.fixture
def sent(server: EmbeddedRedis, client: redis.Redis, jobs: JobStore) -> Sent:
    return Sent(client, server.url, 5, jobs)


def test_what_waits_or_is_held_is_not_lost(sent: Sent) -> None:
    sent.client.lmove(KEYS.queue, KEYS.processing, "RIGHT", "LEFT")
    raw = sent.client.rpop(KEYS.queue)
    sent.client.hset(KEYS.unacked, "tag", json.dumps([json.loads(raw), "tag", "tag"]))
    assert chunks_in_redis(sent.client, KEYS, sent.id) == dict.fromkeys(range(5), 2)
    assert sent.look(600) == 0
    assert sent.jobs.get(sent.id).outstanding == 10


def test_a_purge_counts_what_is_lost_and_nothing_else(
    sent: Sent, server: EmbeddedRedis, jobs: JobStore
) -> None:
    jobs.finish_chunk(sent.id, 3, images=2, failed=1)
    sent.client.delete(KEYS.queue)
    other = Sent(sent.client, server.url, 2, jobs)
    assert sent.look(10) == 8, "within ten seconds"
    found = jobs.get(sent.id)
    assert (found.done, found.failed, dict(found.codes)) == (10, 9, {"message_lost": 8})
    assert found.finished
    outcomes = jobs.collect(sent.id, range(5))
    assert [one.seq for one in outcomes] == [0, 1, 2, 4]
    assert {one.code for one in outcomes if isinstance(one, LostChunk)} == {"message_lost"}
    assert sent.look() == other.look() == 0


def test_of_a_job_that_waits_only_what_is_missing_is_lost(sent: Sent, jobs: JobStore) -> None:
    sent.client.lrem(KEYS.queue, 1, sent.message(2))
    assert sent.look() == 2
    assert jobs.unfinished_chunks(sent.id, 5) == [0, 1, 3, 4]
    assert jobs.get(sent.id).outstanding == 8


def test_a_chunk_that_finishes_meanwhile_is_not_lost(sent: Sent, jobs: JobStore) -> None:
    before = jobs.get(sent.id)
    jobs.finish_chunk(sent.id, 0, images=2, failed=0)
    assert not jobs.lose_chunks(before, [1], images=2)
    assert not jobs.lose_chunks(jobs.get(sent.id), [0, 1], images=2)
    assert jobs.get(sent.id).failed == 0


def test_a_result_that_comes_after_all_changes_nothing(sent: Sent, jobs: JobStore) -> None:
    message = sent.message(1)
    sent.client.lrem(KEYS.queue, 1, message)
    assert sent.look() == 2
    assert not jobs.finish_chunk(sent.id, 1, images=2, failed=0, body=b"{}")
    (outcome,) = jobs.collect(sent.id, [1])
    assert isinstance(outcome, LostChunk)
    assert jobs.get(sent.id).done == 2


def test_chunks_on_their_way_to_the_queue_have_more_time(
    server: EmbeddedRedis, client: redis.Redis, jobs: JobStore
) -> None:
    sent = Sent(client, server.url, 3, jobs)
    client.hset(f"wanwu:job:{sent.id}", "state", "submitting")
    client.delete(KEYS.queue)
    jobs.set_sent(sent.id, images=6, chunks=3, published=2)
    assert sent.look(600) == 0
    jobs.set_published(sent.id, 3)
    assert sent.look(10) == 6


def test_blobs_of_what_is_lost_are_freed(sent: Sent, jobs: JobStore) -> None:
    jobs.set_sent(sent.id, images=10, chunks=5, blobs=2)
    for seq in (0, 1):
        sent.client.set(f"wanwu:blob:{sent.id}-{seq}:1", b"x")
    sent.client.lrem(KEYS.queue, 1, sent.message(1))
    assert sent.look() == 2
    assert sent.client.keys("wanwu:blob:*") == [f"wanwu:blob:{sent.id}-0:1".encode()]


def test_whoever_looks_once_looks_twice_at_what_is_missing(sent: Sent, jobs: JobStore) -> None:
    naps: list[float] = []
    assert look_twice(sent.client, jobs, jobs.list(), sleep=naps.append) == {}
    assert naps == []
    sent.client.delete(KEYS.queue)
    found = look_twice(sent.client, jobs, jobs.list(), sleep=naps.append)
    assert (found, len(naps)) == ({sent.id: 10}, 1)


def test_results_apart_say_what_was_lost(server: EmbeddedRedis, client: redis.Redis) -> None:
    with connect(f"{server.url.rpartition('/')[0]}/1") as apart:
        apart.flushdb()
        sent = Sent(client, server.url, 2, JobStore(client, 60, results=apart))
        client.delete(KEYS.queue)
        assert sent.look() == 4
        assert len(sent.jobs.collect(sent.id, [0, 1])) == 2


# From outside: real commands, real workers.


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    (tmp_path / "logs").mkdir()
    with ExitStack() as stack:
        yield Fleet(tmp_path / "logs", stack)


def codes(out: Path) -> Counter[str]:
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len({line["path"] for line in lines}) == len(lines), "an image has two records"
    return Counter(line["error"]["code"] if line["error"] else "ok" for line in lines)


def purge(url: str) -> None:
    app = make_app(Settings(broker_url=SecretUrl(url)), stores_results=False)
    assert app.control.purge() > 0


def revoke(url: str) -> None:
    """As Flower does, each task that waits."""
    app = make_app(Settings(broker_url=SecretUrl(url)), stores_results=False)
    with connect(url) as client:
        lists: Any = client
        queues = (KEYS.queue, *lists.keys(KEYS.waiting("*")))
        names = [json.loads(raw)["headers"]["id"] for q in queues for raw in lists.lrange(q, 0, -1)]
    assert names
    app.control.revoke(names)


@pytest.mark.integration
@pytest.mark.parametrize("lose", [purge, revoke])
def test_a_submit_that_waits_says_what_is_lost_and_resume_sends_it_again(
    server: EmbeddedRedis,
    client: redis.Redis,
    fleet: Fleet,
    tmp_path: Path,
    lose: Callable[[str], None],
) -> None:
    fill(tmp_path / "photos", IMAGES)
    fleet.start(server.url, program=STEADY)
    out = tmp_path / "out.jsonl"
    argv = ["submit", str(tmp_path / "photos"), "--out", str(out)]
    job = subprocess.Popen(
        [sys.executable, "-m", "producer.cli", *argv],
        cwd=ROOT,
        env=environment(broker_url=server.url),
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: out.exists() and out.stat().st_size > 0 and FairQueue(KEYS).size(client) > 2)
    lose(server.url)
    _, said = job.communicate(timeout=PATIENCE_S)
    assert job.returncode == 3, said
    found = codes(out)
    assert found.keys() == {"ok", "message_lost"}
    assert found.total() == IMAGES
    assert "--resume" in said
    seen = run("producer", "doctor", broker_url=server.url)
    assert "are lost to the queue" in seen.stdout + seen.stderr
    (record,) = JobStore(client, 60).list()
    assert (record.done, record.codes["message_lost"]) == (IMAGES, found["message_lost"])
    again = run("producer", *argv, "--resume", broker_url=server.url)
    assert again.returncode == 0, again.stderr
    assert codes(out) == {"ok": IMAGES}
    seen = run("producer", "doctor", broker_url=server.url)
    assert "are lost to the queue" not in seen.stdout + seen.stderr


@pytest.mark.integration
def test_status_counts_what_nobody_waits_for(
    server: EmbeddedRedis, client: redis.Redis, tmp_path: Path
) -> None:
    fill(tmp_path / "photos", 40)
    sent = run("producer", "submit", str(tmp_path / "photos"), "--no-wait", broker_url=server.url)
    job = sent.stdout.strip()
    purge(server.url)
    seen = run("producer", "status", job, broker_url=server.url)
    assert "40 message_lost" in seen.stdout
    assert "finished" in seen.stdout
    waited = run(
        *("producer", "results", job, "--wait", "--out", str(tmp_path / "out.jsonl")),
        broker_url=server.url,
    )
    assert waited.returncode == 3, waited.stderr
    assert "5 chunks have no results: its message left the queue" in waited.stderr


@pytest.mark.integration
def test_whoever_waits_at_the_http_api_gets_a_record_of_each_image(
    server: EmbeddedRedis, client: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    photos = fill(tmp_path / "photos", IMAGES)
    with serving(server.url, tmp_path / "log") as address:
        names, notes = [str(path) for path in photos], list[str]()
        with Client(address, on_note=notes.append) as api:
            job = api.submit(names[:40])
            until(lambda: FairQueue(KEYS).size(client) == 5)
            purge(server.url)
            api.wait(job)
            assert api.job(job).codes == {"message_lost": 40}
            fleet.start(server.url, program=STEADY)
            records = list[Record]()
            for record in api.tag(names):
                if not records:
                    until(lambda: FairQueue(KEYS).size(client) > 2)
                    purge(server.url)
                records.append(record)
        found = Counter(record.error.code if record.error else "ok" for record in records)
        assert found.keys() == {"ok", "message_lost"}
        assert sorted(record.path for record in records) == sorted(names)
        assert any("are lost to the queue" in note for note in notes)
