"""What the worker's backend stores is counted in the same step, once."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import redis
from celery.app.task import Context
from celery.worker import state as worker_state
from conftest import PATIENCE_S, until
from server import Server

from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.messages import ChunkResult, Failure, ImageResult
from worker.contract.queue.app import make_app
from worker.contract.redis.connections import connect
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings
from worker.contract.stores.jobs import JobStore, LostChunk
from worker.service import result_backend as results
from worker.service.delivery import DELIVERY, Delivery, Tagged
from worker.service.result_backend import ChunkResults


@pytest.fixture
def backend(server: EmbeddedRedis, client: redis.Redis) -> ChunkResults:
    app = make_app(Settings(broker_url=SecretUrl(server.url)), stores_results=True)
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
    jobs.set_state(job, "submitted")
    sent = result(job, "/猫.jpg", "/bad.jpg")
    backend.mark_as_done(f"{job}-0", Tagged(sent))
    assert jobs.collect(job, [0]) == [sent]
    assert jobs.finished_chunks(job, [0]) == {0}
    record = jobs.get(job)
    assert (record.done, record.failed) == (2, 1)
    assert 0 < client.ttl(KEYS.result(f"{job}-0")) <= Settings().result_ttl_s


def test_a_chunk_that_comes_twice_keeps_its_first_result(
    backend: ChunkResults, client: redis.Redis
) -> None:
    jobs = JobStore(client, 60)
    job = jobs.create().id
    first, second = result(job, "/a.jpg"), result(job, "/bad.jpg", worker="other")
    for one in (first, second):
        backend.mark_as_done(f"{job}-0", Tagged(one))
    assert jobs.collect(job, [0]) == [first]
    assert (jobs.get(job).done, jobs.get(job).failed) == (1, 0)


def test_a_message_is_acknowledged_in_the_step_that_stores_its_result(
    backend: ChunkResults, client: redis.Redis
) -> None:
    job = JobStore(client, 60).create().id
    for tag in ("mine", "other"):
        client.hset(KEYS.unacked, tag, "a message")
        client.zadd(KEYS.unacked_index, {tag: 1.0})
    delivery = Delivery("mine")
    delivery.goes_with_result = True
    backend.mark_as_done(f"{job}-0", Tagged(result(job, "/a.jpg")), Context({DELIVERY: delivery}))
    assert delivery.is_acked
    assert client.hkeys(KEYS.unacked) == [b"other"]
    assert client.zrange(KEYS.unacked_index, 0, -1) == [b"other"]


def test_the_message_of_a_chunk_with_blobs_is_left_to_be_acknowledged_after_them(
    backend: ChunkResults, client: redis.Redis
) -> None:
    job = JobStore(client, 60).create().id
    client.hset(KEYS.unacked, "mine", "a message")
    delivery = Delivery("mine")
    backend.mark_as_done(f"{job}-0", Tagged(result(job, "/a.jpg")), Context({DELIVERY: delivery}))
    assert not delivery.is_acked
    assert client.hkeys(KEYS.unacked) == [b"mine"]


def test_a_message_is_acknowledged_also_if_its_job_is_gone(
    backend: ChunkResults, client: redis.Redis
) -> None:
    client.hset(KEYS.unacked, "mine", "a message")
    delivery = Delivery("mine")
    delivery.goes_with_result = True
    backend.mark_as_done("j-0", Tagged(result("j", "/a.jpg")), Context({DELIVERY: delivery}))
    assert not client.exists(KEYS.unacked)


def test_names_that_are_no_utf8_survive(backend: ChunkResults, client: redis.Redis) -> None:
    jobs = JobStore(client, 60)
    job = jobs.create().id
    sent = result(job, "/\udce9t\udce9.jpg")
    backend.mark_as_done(f"{job}-0", Tagged(sent))
    assert jobs.collect(job, [0]) == [sent]


def test_celery_itself_reads_what_is_stored(backend: ChunkResults, client: redis.Redis) -> None:
    job = JobStore(client, 60).create().id
    sent = result(job, "/a.jpg")
    backend.mark_as_done(f"{job}-0", Tagged(sent))
    found = backend.app.AsyncResult(f"{job}-0")
    assert found.state == "SUCCESS"
    assert found.get(timeout=PATIENCE_S) == json.loads(json.dumps(sent.to_wire()))


@pytest.fixture
def fickle(tmp_path: Path) -> Iterator[Server]:
    """A Redis that is there, and may go and come back."""
    with Server(tmp_path) as server:
        yield server


def test_a_result_waits_for_a_redis_that_is_away(
    fickle: Server, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(Settings(broker_url=SecretUrl(fickle.url)), stores_results=True)
    with connect(fickle.url) as client:
        job = JobStore(client, 60).create().id
    sent = result(job, "/猫.jpg")
    app.backend.mark_as_done(f"{job}-1", Tagged(msgspec.structs.replace(sent, seq=1)))
    fickle.stop()
    storing = threading.Thread(target=app.backend.mark_as_done, args=(f"{job}-0", Tagged(sent)))
    storing.start()
    until(lambda: "results.waiting" in caplog.text)
    assert storing.is_alive()
    fickle.start()
    storing.join(PATIENCE_S)
    assert not storing.is_alive()
    with connect(fickle.url) as client:
        assert JobStore(client, 60).collect(job, [0]) == [sent]
    lines = [record.getMessage() for record in caplog.records if "results." in record.getMessage()]
    assert [line.split(":")[0] for line in lines] == ["results.waiting", "results.stored"]


def test_a_worker_that_is_to_stop_leaves_the_chunk_to_others(
    fickle: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(Settings(broker_url=SecretUrl(fickle.url)), stores_results=True)
    fickle.stop()
    monkeypatch.setattr(results, "STOP_PATIENCE_S", 0.3)
    monkeypatch.setattr(worker_state, "should_stop", 0)
    # Not an `Exception`: Celery would store it as the chunk's failure, and acknowledge the chunk.
    with pytest.raises(SystemExit):
        app.backend.mark_as_done("j-0", Tagged(result("j", "/a.jpg")))


# Celery's own, of redis-py's SETEX.
@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")
def test_a_failed_task_is_left_to_celery(backend: ChunkResults, client: redis.Redis) -> None:
    jobs = JobStore(client, 60)
    job = jobs.create().id
    backend.mark_as_failure(f"{job}-0", ValueError("broken"))
    (lost,) = jobs.collect(job, [0])
    assert isinstance(lost, LostChunk)
    assert "broken" in lost.reason
    assert lost.paths == ()


@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")
def test_the_failure_of_a_chunk_names_its_images(
    backend: ChunkResults, client: redis.Redis
) -> None:
    refused = {"v": 1, "images": [{"path": "/a.jpg"}, {"path": "/\udce9.jpg"}], "top_k": 0}
    backend.mark_as_failure("j-0", ValueError("top_k"), request=Context(args=[refused], kwargs={}))
    (lost,) = JobStore(client, 60).collect("j", [0])
    assert isinstance(lost, LostChunk)
    assert lost.paths == ("/a.jpg", "/\udce9.jpg")


@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")
def test_results_in_a_redis_of_their_own_are_counted_where_the_job_is(
    server: EmbeddedRedis, client: redis.Redis
) -> None:
    apart = Settings(
        broker_url=SecretUrl(server.url), result_url=SecretUrl(f"{server.url.rpartition('/')[0]}/1")
    )
    with connect(apart.result_url) as results:
        jobs = JobStore(client, 60, results=results)
        job = jobs.create().id
        jobs.set_sent(job, images=1, chunks=1)
        sent = result(job, "/a.jpg")
        make_app(apart, stores_results=True).backend.mark_as_done(f"{job}-0", Tagged(sent))
        assert jobs.collect(job, [0]) == [sent]
        assert jobs.get(job).done == 1
        results.flushdb()
