"""Chunks that come again, and what was given up: in a real Redis."""

from __future__ import annotations

import pytest
import redis

from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.messages import Chunk, ImageRef
from worker.contract.stores.dead_letters import MAX_LETTERS, MAX_RAW_BYTES, DeadLetters
from worker.contract.stores.jobs import JobStore
from worker.service.delivery_counts import ChunkDoneError, Deliveries

STRANGE = "/图/\udcff.jpg"


def chunk(job: str = "j", seq: int = 3) -> Chunk:
    images = (ImageRef("/a.jpg"), ImageRef(STRANGE))
    return Chunk(job=job, seq=seq, images=images, sent_at_s=1.0)


def test_deliveries_and_attempts_are_counted_by_chunk_and_image(client: redis.Redis) -> None:
    deliveries, first, second = Deliveries(client, 60), chunk(), chunk(seq=4)
    assert [deliveries.again(first) for _ in range(2)] == [2, 3]
    assert deliveries.again(second) == 2
    assert [deliveries.begin(first, 0) for _ in range(2)] == [1, 2]
    assert deliveries.begin(first, 1) == 1
    deliveries.end(first, 0)
    assert deliveries.begin(first, 0) == 1
    assert deliveries.begin(first, 1) == 2


def test_what_is_known_of_a_chunk_vanishes_with_it_or_in_time(client: redis.Redis) -> None:
    jobs, deliveries = JobStore(client, 60), Deliveries(client, 60)
    job = jobs.create().id
    deliveries.begin(chunk(job), 0)
    (key,) = client.keys(f"{KEYS.prefix}attempts:*")
    assert 0 < client.ttl(key) <= 60
    # Whoever stores the results, be it a worker that has not heard of the other delivery.
    jobs.finish_chunk(job, 3, images=2, failed=0)
    assert not client.exists(key)


def test_a_chunk_that_has_its_results_needs_no_other_delivery(client: redis.Redis) -> None:
    jobs, deliveries = JobStore(client, 60), Deliveries(client, 60)
    job = jobs.create().id
    jobs.finish_chunk(job, 3, images=2, failed=0)
    with pytest.raises(ChunkDoneError):
        deliveries.again(chunk(job))
    with pytest.raises(ChunkDoneError):
        deliveries.begin(chunk(job), 0)
    assert deliveries.again(chunk(job, seq=4)) == 2


def test_dead_letters_keep_what_to_send_again_and_why(client: redis.Redis) -> None:
    times = iter((2.0, 1.0, 3.0))
    dead = DeadLetters(client, clock=lambda: next(times))
    dead.add_image(chunk(), 1, "poison", "it kills")
    dead.add_chunk(chunk(seq=5), "poison", "it never ends")
    dead.add_unreadable(b"\xff" * 10_000, "no message")
    first, second, third = dead.list()
    assert (first.id, first.reason, first.chunk) == ("j-5", "it never ends", chunk(seq=5))
    assert second.chunk is not None
    assert [image.path for image in second.chunk.images] == [STRANGE]
    assert (third.code, third.chunk, len(third.raw)) == ("unreadable_message", None, MAX_RAW_BYTES)
    assert dead.count() == 3
    dead.remove([first, third])
    assert dead.list() == [second]
    dead.remove([])


def test_what_is_given_up_twice_is_one_letter_and_the_list_ends(client: redis.Redis) -> None:
    dead = DeadLetters(client)
    for _ in range(2):
        dead.add_image(chunk(), 0, "poison", "it kills")
    assert dead.count() == 1
    client.hset(f"{KEYS.prefix}dead", mapping={str(n): b"{}" for n in range(MAX_LETTERS - 1)})
    dead.add_image(chunk(), 1, "poison", "one too many")
    assert dead.count() == MAX_LETTERS


def test_a_letter_that_cannot_be_read_is_shown_all_the_same(client: redis.Redis) -> None:
    client.hset(f"{KEYS.prefix}dead", mapping={"x": b"{}", "y": b"\xff"})
    found = DeadLetters(client).list()
    assert [(one.id, one.code, one.chunk) for one in found] == [
        ("x", "unreadable_letter", None),
        ("y", "unreadable_letter", None),
    ]
    DeadLetters(client).remove(found)
    assert DeadLetters(client).count() == 0
