"""Dead letters that are sent again: each once, and none is lost on the way."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import redis

from producer.backend.connection import Connection, open_connection
from producer.jobs.requeue import requeue
from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.messages import Chunk, ImageRef
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings
from worker.contract.stores.dead_letters import UNREADABLE, DeadLetters, Unread


@pytest.fixture
def connection(server: EmbeddedRedis, client: redis.Redis) -> Iterator[Connection]:
    with open_connection(Settings(broker_url=SecretUrl(server.url))) as opened:
        dead = opened.dead
        for seq in range(20):
            chunk = Chunk(job="j", seq=seq, images=(ImageRef("/a"),), sent_at_s=1.0)
            dead.add_chunk(chunk, "poison", "no")
            # One that nothing but its bytes is known of.
            raw = b'{"body": %d}' % seq
            client.lpush(KEYS.processing, raw)
            dead.add_unread(Unread(raw, f"k-{seq}", 1, KEYS.processing), UNREADABLE, "no")
        yield opened


def test_several_at_once_send_each_letter_once(connection: Connection) -> None:
    letters, together = connection.dead.list(), Barrier(3)

    def send(_: int) -> tuple[int, int, int]:
        together.wait()
        sent = requeue(connection, letters)
        return sent.images, sent.messages, sent.elsewhere

    with ThreadPoolExecutor(3) as pool:
        counts = list(pool.map(send, range(3)))
    assert [sum(column) for column in zip(*counts, strict=True)] == [20, 20, 80]
    assert connection.client.llen(KEYS.queue) == 40
    assert not connection.client.exists(KEYS.dead, KEYS.claims)


def test_letters_that_cannot_be_sent_stay_and_may_be_sent_by_others(connection: Connection) -> None:
    letters = connection.dead.list()
    connection.client.set(KEYS.queue, "another application's")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        requeue(connection, letters)
    connection.client.delete(KEYS.queue)
    assert len(connection.dead.list()) == 40
    sent = requeue(connection, connection.dead.list())
    assert (sent.images, sent.messages, sent.elsewhere) == (20, 20, 0)


def test_what_was_claimed_by_one_that_is_gone_is_there_again(connection: Connection) -> None:
    client, letters = connection.client, connection.dead.list()
    assert len(DeadLetters(client).claim(letters)) == 40
    assert requeue(connection, letters).elsewhere == 40
    assert 0 < client.ttl(KEYS.claims) <= 300
    for letter in letters:
        client.zincrby(KEYS.claims, -301, letter.id)
    assert requeue(connection, letters).elsewhere == 0
