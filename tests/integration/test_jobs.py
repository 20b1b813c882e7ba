"""worker.contract.stores.jobs"""

from __future__ import annotations

import json
import threading
from typing import Any, cast

import pytest
import redis

from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.messages import MAX_WAIT_S, ChunkResult, ImageResult
from worker.contract.redis.connections import connect
from worker.contract.stores.jobs import JobStore, LostChunk, NoSuchJobError, new_job_id


@pytest.fixture
def jobs(client: redis.Redis) -> JobStore:
    return JobStore(client, ttl_s=3600)


def chunk_result(job: str, seq: int) -> ChunkResult:
    images = (ImageResult(path="/a"),)
    return ChunkResult(job=job, seq=seq, worker="w", device="cpu", model="m", images=images)


def store(client: redis.Redis, job: str, seq: int, status: str, result: object) -> None:
    """Store a result as Celery does."""
    body = json.dumps({"status": status, "result": result, "task_id": f"{job}-{seq}"})
    client.set(KEYS.result(f"{job}-{seq}"), body)


def test_ids_sort_by_time() -> None:
    assert new_job_id(1_000_000_000) < new_job_id(1_000_000_001) < new_job_id(2_000_000_000)


def test_a_job_counts_what_is_sent_and_done(jobs: JobStore) -> None:
    job = jobs.create()
    jobs.set_sent(job.id, images=8, chunks=1)
    for _ in range(2):  # A connection may break after it was said.
        jobs.set_sent(job.id, images=11, chunks=2)
    jobs.finish_chunk(job.id, 0, images=8, failed=2)
    job = jobs.get(job.id)
    assert (job.images, job.chunks, job.done, job.failed, job.outstanding) == (11, 2, 8, 2, 3)
    assert not job.finished


def test_a_chunk_counts_once_however_often_it_is_delivered(jobs: JobStore) -> None:
    job = jobs.create()
    jobs.set_sent(job.id, images=8, chunks=1)
    assert jobs.finish_chunk(job.id, 0, images=8, failed=0)
    assert not jobs.finish_chunk(job.id, 0, images=8, failed=0)
    assert jobs.get(job.id).done == 8
    assert jobs.finished_chunks(job.id, [0, 1]) == {0}


def test_chunks_are_counted_while_the_scripts_of_redis_are_flushed_again_and_again(
    jobs: JobStore, server: EmbeddedRedis
) -> None:
    job, ending = jobs.create(), threading.Event()
    jobs.set_sent(job.id, images=200, chunks=200)

    def flush() -> None:
        with connect(server.url) as client:
            while not ending.is_set():
                client.script_flush()

    flushing = threading.Thread(target=flush)
    flushing.start()
    try:
        assert all(jobs.finish_chunk(job.id, seq, images=1, failed=0) for seq in range(200))
    finally:
        ending.set()
        flushing.join()
    assert jobs.get(job.id).done == 200


def test_a_job_is_finished_when_all_is_sent_and_done(jobs: JobStore) -> None:
    job = jobs.create()
    jobs.set_sent(job.id, images=1, chunks=1)
    jobs.finish_chunk(job.id, 0, images=1, failed=0)
    assert not jobs.get(job.id).finished
    jobs.set_state(job.id, "submitted")
    assert jobs.get(job.id).finished


def test_a_cancelled_job_stays_cancelled(jobs: JobStore) -> None:
    job = jobs.create()
    assert not jobs.is_cancelled(job.id)
    jobs.set_state(job.id, "cancelled")
    jobs.set_state(job.id, "submitted")
    assert jobs.is_cancelled(job.id)


def test_a_finished_job_stays_finished(jobs: JobStore) -> None:
    job = jobs.create()
    jobs.set_sent(job.id, images=2, chunks=1)
    assert jobs.set_state(job.id, "submitted")
    jobs.finish_chunk(job.id, 0, images=2, failed=0)
    assert not jobs.set_state(job.id, "cancelled")
    assert not jobs.set_state(job.id, "interrupted")
    assert jobs.get(job.id).state == "submitted"
    assert jobs.get(job.id).finished


def test_a_job_whose_producer_was_killed_is_cancelled(jobs: JobStore) -> None:
    """All that it has sent is done, but nobody has said that there is no more."""
    job = jobs.create()
    jobs.set_sent(job.id, images=2, chunks=1)
    jobs.finish_chunk(job.id, 0, images=2, failed=0)
    assert jobs.set_state(job.id, "cancelled")
    assert not jobs.set_state(job.id, "cancelled")
    assert jobs.is_cancelled(job.id)


def test_a_job_says_what_it_is_of_and_records_of_other_versions_are_read(
    jobs: JobStore, client: redis.Redis
) -> None:
    assert jobs.create().about == ""
    job = jobs.create("x" * 1000, 3)
    found = jobs.get(job.id)
    assert (found.about, found.labels) == ("x" * 300, 3)
    key = f"wanwu:job:{job.id}"
    client.hset(key, "field of the future", "1")
    client.hset(key, "about", b"\xff")
    assert jobs.get(job.id).about == "\ufffd"
    client.hdel(key, "about", "labels")
    assert jobs.get(job.id).labels == 0


def test_an_unknown_job_is_told_by_name(jobs: JobStore) -> None:
    with pytest.raises(NoSuchJobError, match="no job nowhere"):
        jobs.get("nowhere")
    with pytest.raises(NoSuchJobError, match="no job nowhere"):
        jobs.set_state("nowhere", "cancelled")


@pytest.mark.parametrize(("ttl_s", "kept"), [(86_400, "24 h"), (90, "90 s"), (5400, "5400 s")])
def test_it_is_said_for_how_long_jobs_are_kept(client: redis.Redis, ttl_s: int, kept: str) -> None:
    with pytest.raises(NoSuchJobError, match=rf"\(records are kept for {kept}\)"):
        JobStore(client, ttl_s).get("nowhere")


def test_a_job_that_cannot_be_begun_leaves_nothing(client: redis.Redis) -> None:
    jobs, asked = JobStore(client, 3600, replicas=1), cast("Any", client)
    asked.execute_command("ACL", "SETUSER", "default", "-wait")
    try:
        with pytest.raises(redis.exceptions.NoPermissionError):
            jobs.create()
    finally:
        asked.execute_command("ACL", "SETUSER", "default", "+wait")
    assert client.keys("*job*") == []


def test_a_task_that_was_revoked_has_a_plain_sentence(jobs: JobStore, client: redis.Redis) -> None:
    error = {"exc_type": "TaskRevokedError", "exc_message": ["revoked"], "exc_module": "celery"}
    store(client, "j", 0, "REVOKED", error)
    (found,) = jobs.collect("j", [0])
    assert isinstance(found, LostChunk)
    assert found.code == "message_lost"
    assert (
        found.reason == "its message left the queue without a result (purged, revoked or deleted)"
    )


def test_a_chunk_of_a_forgotten_job_leaves_no_record(jobs: JobStore, client: redis.Redis) -> None:
    assert not jobs.finish_chunk("gone", 0, images=1, failed=0)
    assert client.keys("*gone*") == []


def test_jobs_are_listed_newest_first(client: redis.Redis) -> None:
    now_s = 1_000_000_000.0
    jobs = JobStore(client, ttl_s=3600, clock=lambda: now_s)
    first = jobs.create()
    now_s += 1
    second = jobs.create()
    assert [job.id for job in jobs.list()] == [second.id, first.id]


def test_results_are_collected_by_key_and_the_rest_is_left_out(
    jobs: JobStore, client: redis.Redis
) -> None:
    store(client, "j", 0, "SUCCESS", chunk_result("j", 0).to_wire())
    assert jobs.collect("j", [0, 1]) == [chunk_result("j", 0)]
    assert jobs.collect("j", []) == []


def test_a_task_that_failed_is_a_lost_chunk_with_its_reason(
    jobs: JobStore, client: redis.Redis
) -> None:
    error = {"exc_type": "MessageError", "exc_message": ["version 2"], "exc_module": "x"}
    store(client, "j", 4, "FAILURE", error)
    store(client, "j", 5, "SUCCESS", {"v": 9})
    first, second = jobs.collect("j", [4, 5])
    assert isinstance(first, LostChunk)
    assert "version 2" in first.reason
    assert isinstance(second, LostChunk)
    assert "version 9" in second.reason
    assert first.records() == second.records() == []


def test_of_a_chunk_that_failed_each_image_that_is_known_has_a_record(
    jobs: JobStore, client: redis.Redis
) -> None:
    store(client, "j", 0, "SUCCESS", {"v": 9, "images": [{"path": "/a.jpg"}, {"path": 5}, None]})
    meta = {"status": "FAILURE", "result": None, "paths": ["/b.jpg", "/\udce9.jpg", "", 5]}
    client.set(KEYS.result("j-1"), json.dumps(meta))
    records = [record for lost in jobs.collect("j", [0, 1]) for record in lost.records()]
    assert [record.path for record in records] == ["/a.jpg", "/b.jpg", "/\udce9.jpg"]
    assert {record.error and record.error.code for record in records} == {"lost"}


def test_dropped_results_are_gone(jobs: JobStore, client: redis.Redis) -> None:
    store(client, "j", 0, "SUCCESS", chunk_result("j", 0).to_wire())
    jobs.drop_results("j", [0])
    assert jobs.collect("j", [0]) == []


def lives(client: redis.Redis, job: str) -> list[int]:
    """Seconds for which a job's record, its bits and its results are kept."""
    keys = [*client.keys(f"wanwu:job:{job}*"), *client.keys(KEYS.result(f"{job}-*"))]
    return [client.ttl(key) for key in keys]


def test_records_are_not_kept_for_ever(jobs: JobStore, client: redis.Redis) -> None:
    job = jobs.create()
    jobs.finish_chunk(job.id, 0, images=1, failed=0)
    assert all(0 < life_s <= MAX_WAIT_S for life_s in lives(client, job.id))


def test_the_life_of_results_counts_from_the_last_of_their_job(
    jobs: JobStore, client: redis.Redis
) -> None:
    job = jobs.create()
    jobs.set_sent(job.id, images=3, chunks=3)
    jobs.set_state(job.id, "submitted")
    for seq in range(3):
        assert all(life_s > 3600 for life_s in lives(client, job.id)), "the rest may wait for long"
        jobs.finish_chunk(job.id, seq, images=1, failed=0, body=b"{}")
    found = lives(client, job.id)
    assert len(found) == 5
    assert all(0 < life_s <= 3600 for life_s in found)


def test_a_job_that_is_finished_when_it_is_closed_is_kept_from_then_on(
    jobs: JobStore, client: redis.Redis
) -> None:
    job = jobs.create()
    jobs.set_sent(job.id, images=1, chunks=1)
    jobs.finish_chunk(job.id, 0, images=1, failed=0, body=b"{}")
    assert all(life_s > 3600 for life_s in lives(client, job.id)), "more may be sent"
    jobs.set_state(job.id, "submitted")
    assert all(0 < life_s <= 3600 for life_s in lives(client, job.id))


def test_results_apart_live_as_long_as_those_beside_the_queue(
    server: EmbeddedRedis, client: redis.Redis
) -> None:
    with connect(f"{server.url.rpartition('/')[0]}/1") as apart:
        apart.flushdb()
        jobs = JobStore(client, 3600, results=apart)
        job = jobs.create()
        jobs.set_sent(job.id, images=2, chunks=2)
        jobs.set_state(job.id, "submitted")
        names = [KEYS.result(f"{job.id}-{seq}") for seq in range(2)]
        for seq, name in enumerate(names):
            apart.set(name, "{}", ex=3600)
            jobs.finish_chunk(job.id, seq, images=1, failed=0)
            assert (apart.ttl(name) > 3600) == (seq == 0)
        assert all(0 < apart.ttl(name) <= 3600 for name in names)


def test_reading_a_job_keeps_it(jobs: JobStore, client: redis.Redis) -> None:
    job = jobs.create()
    jobs.set_sent(job.id, images=1, chunks=1)
    jobs.set_state(job.id, "submitted")
    body = json.dumps({"status": "SUCCESS", "result": chunk_result(job.id, 0).to_wire()})
    jobs.finish_chunk(job.id, 0, images=1, failed=0, body=body)
    for key in (f"wanwu:job:{job.id}", KEYS.result(f"{job.id}-0")):
        client.expire(key, 60)
    assert len(jobs.collect(job.id, [0], keep_s=jobs.touch(job.id))) == 1
    assert all(60 < life_s <= 3600 for life_s in lives(client, job.id))
