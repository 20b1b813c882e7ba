"""What the worker's backend stores is counted in the same step, once."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

from worker.contract.broker import connect, make_app
from worker.contract.embedded import EmbeddedRedis
from worker.contract.jobs import JobStore, LostChunk
from worker.contract.messages import ChunkResult, Failure, ImageResult
from worker.contract.results import ChunkResults
from worker.contract.settings import Settings


@pytest.fixture
def backend(server: EmbeddedRedis, client: redis.Redis) -> ChunkResults:
    app = make_app(Settings(broker_url=server.url), stores_results=True)
    assert isinstance(app.backend, ChunkResults)
    return app.backend


def result(job: str, *paths: str, worker: str = "w") -> ChunkResult:
    bad = Failure("empty_file", "read", "the file is empty")
    images = tuple(ImageResult(path=path, error=bad if "bad" in path else None) for path in paths)
    return ChunkResult(job=job, seq=0, worker=worker, device="cpu", model="m", images=images)


def test_a_result_is_stored_and_counted(backend: ChunkResults, client: redis.Redis) -> None:
    jobs = JobStore(client, 60)
    job = jobs.create().id
    jobs.set_sent(job, images=2, chunks=1)
    sent = result(job, "/猫.jpg", "/bad.jpg")
    backend.mark_as_done(f"{job}-0", sent.to_wire())
    assert jobs.collect(job, [0]) == [sent]
    assert jobs.finished_chunks(job, [0]) == {0}
    record = jobs.get(job)
    assert (record.done, record.failed) == (2, 1)
    assert 0 < client.ttl(f"celery-task-meta-{job}-0") <= Settings().result_ttl_s


def test_a_chunk_that_comes_twice_keeps_its_first_result(
    backend: ChunkResults, client: redis.Redis
) -> None:
    jobs = JobStore(client, 60)
    job = jobs.create().id
    first, second = result(job, "/a.jpg"), result(job, "/bad.jpg", worker="other")
    for one in (first, second):
        backend.mark_as_done(f"{job}-0", one.to_wire())
    assert jobs.collect(job, [0]) == [first]
    assert (jobs.get(job).done, jobs.get(job).failed) == (1, 0)


def test_names_that_are_no_utf8_survive(backend: ChunkResults, client: redis.Redis) -> None:
    jobs = JobStore(client, 60)
    job = jobs.create().id
    sent = result(job, "/\udce9t\udce9.jpg")
    backend.mark_as_done(f"{job}-0", sent.to_wire())
    assert jobs.collect(job, [0]) == [sent]


def test_celery_itself_reads_what_is_stored(backend: ChunkResults, client: redis.Redis) -> None:
    job = JobStore(client, 60).create().id
    wire: dict[str, Any] = result(job, "/a.jpg").to_wire()
    backend.mark_as_done(f"{job}-0", wire)
    found = backend.app.AsyncResult(f"{job}-0")
    assert found.state == "SUCCESS"
    assert found.get(timeout=5) == json.loads(json.dumps(wire))


# Celery's own, of redis-py's SETEX.
@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")
def test_a_failed_task_is_left_to_celery(backend: ChunkResults, client: redis.Redis) -> None:
    jobs = JobStore(client, 60)
    job = jobs.create().id
    backend.mark_as_failure(f"{job}-0", ValueError("broken"))
    (lost,) = jobs.collect(job, [0])
    assert isinstance(lost, LostChunk)
    assert "broken" in lost.reason


@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")
def test_results_in_a_redis_of_their_own_are_counted_where_the_job_is(
    server: EmbeddedRedis, client: redis.Redis
) -> None:
    apart = Settings(broker_url=server.url, result_url=f"{server.url.rpartition('/')[0]}/1")
    with connect(apart.result_url) as results:
        jobs = JobStore(client, 60, results=results)
        job = jobs.create().id
        jobs.set_sent(job, images=1, chunks=1)
        sent = result(job, "/a.jpg")
        make_app(apart, stores_results=True).backend.mark_as_done(f"{job}-0", sent.to_wire())
        assert jobs.collect(job, [0]) == [sent]
        assert jobs.get(job).done == 1
        results.flushdb()
