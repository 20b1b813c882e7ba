"""producer.jobs.publisher"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import redis
from celery import Celery
from conftest import PATIENCE_S

from producer.jobs import publisher
from producer.jobs.chunks import OutgoingChunk
from producer.jobs.publisher import Publisher, Stores
from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.messages import QUEUE, Chunk, ImageRef
from worker.contract.queue.app import make_app
from worker.contract.queue.fair import FairQueue
from worker.contract.redis.connections import retrying_client
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings
from worker.contract.stores.blobs import BlobStore
from worker.contract.stores.jobs import JobStore

Wait = Callable[[Callable[[], bool]], None]


@pytest.fixture
def stores(server: EmbeddedRedis, client: redis.Redis) -> Iterator[Stores]:
    with make_app(Settings(broker_url=SecretUrl(server.url)), stores_results=False) as app:
        patient = retrying_client(server.url)
        yield Stores(app, JobStore(patient, 3600), BlobStore(patient, 3600))


@pytest.fixture
def job(stores: Stores) -> str:
    return stores.jobs.create().id


def outgoing(job: str, seq: int, blobs: dict[str, bytes] | None = None) -> OutgoingChunk:
    images = (ImageRef(f"/{seq}/0.jpg"), ImageRef(f"/{seq}/1.jpg"))
    return OutgoingChunk(Chunk(job=job, seq=seq, images=images, sent_at_s=0.0), blobs or {})


def seqs(app: Celery, client: redis.Redis) -> list[int]:
    """The chunks in the queue, in the order in which workers take them."""
    found = []
    with app.connection_for_read() as connection, connection.SimpleQueue(QUEUE) as queue:
        while FairQueue(KEYS).size(client):
            message = queue.get(timeout=PATIENCE_S)
            args, _kwargs, _embed = message.payload
            chunk = Chunk.from_wire(args[0])
            assert chunk.sent_at_s > 0
            found.append(chunk.seq)
            message.ack()
    return found


def test_a_lone_chunk_goes_at_once(
    stores: Stores, job: str, client: redis.Redis, wait_until: Wait
) -> None:
    sending = Publisher(stores, lambda _: None)
    sending.start()
    sending.put(outgoing(job, 0))
    wait_until(lambda: client.llen(KEYS.queue) == 1)
    sending.close()
    assert (stores.jobs.get(job).images, stores.jobs.get(job).chunks) == (2, 1)


def test_what_gathers_travels_in_one_round_trip_and_in_order(
    stores: Stores, job: str, client: redis.Redis
) -> None:
    gone: list[int] = []
    sending = Publisher(stores, gone.append)
    for seq in range(50):
        sending.put(outgoing(job, seq, {f"wanwu:blob:{seq}": b"x"}))
    before = client.info("stats")["total_reads_processed"]
    sending.start()
    sending.close()
    assert gone == [100]
    assert client.info("stats")["total_reads_processed"] - before < 20
    assert seqs(stores.app, client) == list(range(50))
    assert (stores.jobs.get(job).images, stores.jobs.get(job).chunks) == (100, 50)
    assert len(client.keys("wanwu:blob:*")) == 50


def test_a_full_publisher_lets_nobody_in_until_it_sends(
    stores: Stores, job: str, wait_until: Wait
) -> None:
    sending = Publisher(stores, lambda _: None)
    for seq in range(publisher.MAX_CHUNKS):
        sending.put(outgoing(job, seq))
    thread = threading.Thread(target=sending.put, args=[outgoing(job, publisher.MAX_CHUNKS)])
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    sending.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    sending.close()
    assert stores.jobs.get(job).chunks == publisher.MAX_CHUNKS + 1


def test_bytes_fill_a_publisher_but_a_large_chunk_goes_alone(
    stores: Stores, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "MAX_BYTES", 10)
    sending = Publisher(stores, lambda _: None)
    sending.put(outgoing(job, 0, {"a": b"x" * 20}))
    assert not sending._has_room(outgoing(job, 1, {"b": b"x"}))


def test_connections_that_break_lose_no_chunk(
    stores: Stores, job: str, client: redis.Redis
) -> None:
    # As `submit` has it: a client does not try again when what its pool gives breaks twice at once.
    sending = Publisher(stores, lambda _: None, retry_timeout_s=60)
    done = threading.Event()

    def cut() -> None:
        while not done.wait(0.03):
            client.client_kill_filter(_type="normal", skipme=True)

    cutter = threading.Thread(target=cut)
    cutter.start()
    sending.start()
    try:
        for seq in range(500):
            sending.put(outgoing(job, seq))
        sending.close()
    finally:
        done.set()
        cutter.join()
    # Some may have come twice, where it was not known whether they had arrived.
    assert set(seqs(stores.app, client)) == set(range(500))


def test_a_redis_that_refuses_is_raised_where_chunks_are_handed_over(
    stores: Stores, job: str, client: redis.Redis, wait_until: Wait
) -> None:
    client.set(KEYS.queue, "no list")
    sending = Publisher(stores, lambda _: None)
    sending.start()
    sending.put(outgoing(job, 0))
    wait_until(lambda: sending._error is not None)
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        sending.put(outgoing(job, 1))
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        sending.close()
