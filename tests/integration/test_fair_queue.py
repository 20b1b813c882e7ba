"""Whose turn it is: messages of several jobs, taken by the script that workers take by."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.keys import Keys
from worker.contract.queue.fair import FairQueue

QUEUE = FairQueue(KEYS)


def message(job: str, seq: int, images: int = 8, **properties: Any) -> bytes:
    """A message, as far as the queue looks at it."""
    headers = {"id": f"{job}-{seq}", "images": images}
    return json.dumps({"headers": headers, "properties": properties}).encode()


def push(client: redis.Redis, job: str, chunks: int, images: int = 8) -> None:
    for seq in range(chunks):
        client.lpush(KEYS.queue, message(job, seq, images))


def take(client: redis.Redis, queue: FairQueue = QUEUE) -> bytes | None:
    found = queue.take(client)
    # These messages have no delivery tag.
    assert found is None or isinstance(found, bytes)
    return found


def job_of(raw: bytes | None) -> str:
    return str(json.loads(raw or b"")["headers"]["id"].rpartition("-")[0])


def taken_jobs(client: redis.Redis, count: int) -> list[str]:
    return [job_of(take(client)) for _ in range(count)]


def test_a_message_with_a_delivery_tag_is_leased_in_the_same_step(client: redis.Redis) -> None:
    for seq in range(2):
        client.lpush(KEYS.queue, message("a", seq, delivery_tag=f"tag-{seq}"))
    client.lpush(KEYS.queue, message("now", 0, 1, priority=9, delivery_tag="urgent"))
    found = [QUEUE.take(client) for _ in range(3)]
    assert [one and one[1] for one in found] == [b"urgent", b"tag-0", b"tag-1"]
    assert not client.exists(KEYS.processing, KEYS.waiting("a"), KEYS.urgent_queue)
    seconds, _ = client.time()
    leases: Any = client.zrange(KEYS.unacked_index, 0, -1, withscores=True)
    assert all(abs(leased_s - seconds) < 60 for _, leased_s in leases)
    for one in found:
        assert isinstance(one, tuple)
        raw, tag = one
        assert client.zscore(KEYS.unacked_index, tag)
        # As kombu notes it, and workers before this step.
        held = json.loads(client.hget(KEYS.unacked, tag) or b"")
        assert held == [json.loads(raw), "", "tag"]


@pytest.mark.parametrize("key", [KEYS.unacked, KEYS.unacked_index])
def test_a_message_that_cannot_be_leased_goes_to_the_processing_list(
    client: redis.Redis, key: str
) -> None:
    client.set(key, "another application's")
    sent = message("a", 0, delivery_tag="tag")
    client.lpush(KEYS.queue, sent)
    assert QUEUE.take(client) == sent
    assert client.lrange(KEYS.processing, 0, -1) == [sent]


def test_a_redis_that_has_forgotten_the_script_gets_it_again(client: redis.Redis) -> None:
    push(client, "a", 2)
    assert job_of(take(client)) == "a"
    client.script_flush()
    assert job_of(take(client)) == "a"


def test_one_job_alone_is_first_come_first_served(client: redis.Redis) -> None:
    push(client, "a", 300)
    taken = [json.loads(take(client) or b"")["headers"]["id"] for _ in range(300)]
    assert taken == [f"a-{seq}" for seq in range(300)]
    assert take(client) is None
    assert client.llen(KEYS.processing) == 300


def test_a_small_job_does_not_wait_for_the_large_one_before_it(client: redis.Redis) -> None:
    push(client, "large", 2000)
    assert taken_jobs(client, 20) == ["large"] * 20
    push(client, "small", 4)
    # The queue is sorted as messages are taken, some at a time.
    soon = taken_jobs(client, 30)
    assert soon.count("small") == 4


def test_jobs_share_by_images_and_not_by_messages(client: redis.Redis) -> None:
    push(client, "large", 64, images=64)
    push(client, "small", 64, images=8)
    jobs = Counter(taken_jobs(client, 36))
    # A message of 64 images for eight of 8.
    assert jobs == {"small": 32, "large": 4}


@pytest.mark.parametrize(("priority", "share"), [("low", 8), ("normal", 20), ("high", 32)])
def test_a_priority_is_a_larger_or_smaller_share(
    client: redis.Redis, priority: str, share: int
) -> None:
    client.hset(KEYS.job("a"), "priority", priority)
    push(client, "a", 60)
    push(client, "b", 60)
    assert Counter(taken_jobs(client, 40))["a"] == share


def test_a_job_that_begins_to_wait_is_owed_nothing_for_earlier(client: redis.Redis) -> None:
    push(client, "early", 200)
    taken_jobs(client, 100)
    push(client, "late", 100)
    # It gets half from now on, not all until it has as much.
    assert Counter(taken_jobs(client, 40))["late"] == 20


def test_an_urgent_message_goes_before_all_jobs(client: redis.Redis) -> None:
    push(client, "large", 100)
    taken_jobs(client, 10)
    client.rpush(KEYS.queue, message("now", 0, 1, priority=9))
    assert job_of(take(client)) == "now"
    assert QUEUE.take(client, "urgent") is None


def test_a_message_that_comes_back_goes_before_those_of_its_job(client: redis.Redis) -> None:
    push(client, "a", 20)
    first = json.loads(take(client) or b"")
    first["properties"]["delivery_info"] = {"redelivered": True}
    client.lpush(KEYS.queue, json.dumps(first))
    assert json.loads(take(client) or b"")["headers"]["id"] == first["headers"]["id"]


def test_what_is_no_message_of_ours_has_a_turn_like_a_job(client: redis.Redis) -> None:
    push(client, "a", 10)
    strange = [b"", b"no json", b"[]", b'{"headers": 1, "properties": []}', b'"\xff"', b"{" * 2000]
    strange.append(b'{"headers": {"id": "../../x-1", "images": "many"}}')
    client.lpush(KEYS.queue, *strange)
    taken = [take(client) for _ in range(10 + len(strange))]
    assert set(strange) <= set(taken)
    assert None not in taken


def test_the_size_is_that_of_all_lists_and_a_purge_empties_them(client: redis.Redis) -> None:
    push(client, "a", 200)
    push(client, "b", 10)
    client.rpush(KEYS.queue, message("now", 0, 1, priority=9))
    taken_jobs(client, 1)
    assert QUEUE.size(client) == 210
    assert sum(1 for _ in QUEUE.oldest(client)) == 2
    assert QUEUE.purge(client) == 210
    assert client.keys() == [KEYS.processing.encode()]


def test_a_full_redis_loses_nothing_when_messages_are_taken(client: redis.Redis) -> None:
    push(client, "a", 50)
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.ResponseError, match=r"OOM|maxmemory"):
            take(client)
    finally:
        client.config_set("maxmemory", 0)
    assert taken_jobs(client, 50) == ["a"] * 50


def test_two_installations_take_their_own(client: redis.Redis) -> None:
    other = FairQueue(Keys("other"))
    push(client, "a", 1)
    assert take(client, other) is None
    assert job_of(take(client)) == "a"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 1024)), max_size=40))
# It begins with an empty database each time.
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_every_message_is_taken_once_whatever_comes_in_between(
    client: redis.Redis, pushed: list[tuple[str, int]]
) -> None:
    client.flushdb()
    sent, taken = [], []
    for seq, (job, images) in enumerate(pushed):
        sent.append(message(job, seq, images))
        client.lpush(KEYS.queue, sent[-1])
        if seq % 3 == 0:
            taken.append(take(client))
    while (raw := take(client)) is not None:
        taken.append(raw)
    assert sorted(sent) == sorted(filter(None, taken))
    assert not client.exists(KEYS.queue, KEYS.turns, KEYS.urgent_queue)
