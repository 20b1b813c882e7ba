"""What is held, whatever else lies there: junk, no lease, or keys of another type."""

from __future__ import annotations

import json
import logging
from typing import Any

import msgspec
import pytest
import redis
from consumers import consuming, send, take

from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.queue.held import HeldMessages
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings
from worker.contract.stores.dead_letters import DeadLetters

FOREIGN = {
    "body": "e30=",
    "headers": {"task": "theirs", "id": "x"},
    "properties": {"delivery_info": {"exchange": "", "routing_key": "theirs"}},
}
JUNK = [
    b"",
    b'{"a":1}',
    b'["x"]',
    b"no JSON",
    b"[1,2,3]",
    b'[{"headers":null},"",null]',
    b"\xff" * 100,
    b"[" * 100_000,
    json.dumps([FOREIGN, "", "theirs"]).encode(),
]


@pytest.fixture
def settings(server: EmbeddedRedis, client: redis.Redis) -> Settings:
    return Settings(broker_url=SecretUrl(server.url), visibility_timeout_s=1000)


def leave(settings: Settings, client: redis.Redis, seq: int = 0) -> str:
    """Let a message be held by a worker that is gone for longer than a lease; return its tag."""
    before: Any = client.hkeys(KEYS.unacked)
    send(settings, seq)
    with consuming(settings) as (connection, _):
        take(connection)
        connection.default_channel.qos._delivered.clear()
        after: Any = client.hkeys(KEYS.unacked)
        tag: bytes = (set(after) - set(before)).pop()
    client.zincrby(KEYS.unacked_index, -2000, tag)
    return tag.decode()


def sweep(settings: Settings, times: int = 1) -> None:
    with consuming(settings) as (connection, messages):
        for _ in range(times):
            connection.default_channel.qos.restore_visible()
        assert not messages


def test_junk_among_what_is_held_is_a_dead_letter_and_the_rest_goes_back(
    settings: Settings, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    for number, junk in enumerate(JUNK):
        # Before and after the message by its lease.
        client.hset(KEYS.unacked, f"g{number}", junk)
        client.zadd(KEYS.unacked_index, {f"g{number}": number % 2})
    client.zadd(KEYS.unacked_index, {"nothing": 0})
    leave(settings, client)
    with caplog.at_level(logging.ERROR):
        sweep(settings, times=2)
    assert client.llen(KEYS.queue) == 1
    letters = DeadLetters(client).list()
    assert [letter.code for letter in letters] == ["unreadable_message"] * len(JUNK)
    assert not any(letter.can_be_sent for letter in letters)
    assert caplog.text.count("message.unreadable") == len(JUNK)
    names: Any = client.keys()
    assert {name for name in names if b"_kombu" not in name} == {b"wanwu:tag", b"wanwu:dead"}


def test_what_is_held_without_a_lease_gets_one_and_is_taken_over_when_that_ends(
    settings: Settings, client: redis.Redis
) -> None:
    tag = leave(settings, client)
    client.delete(KEYS.unacked_index)
    sweep(settings, times=2)
    assert not client.llen(KEYS.queue)
    assert client.zscore(KEYS.unacked_index, tag)
    client.zincrby(KEYS.unacked_index, -2000, tag)
    sweep(settings)
    assert client.llen(KEYS.queue) == 1


def test_what_is_held_is_not_gone_through_where_all_have_leases(
    settings: Settings, client: Any
) -> None:
    """Every worker sweeps, and a thousand of them hold thousands."""
    now_s, _ = client.time()
    for number in range(100):
        client.hset(KEYS.unacked, f"tag-{number}", "a message")
        client.zadd(KEYS.unacked_index, {f"tag-{number}": now_s})
    client.config_resetstat()
    sweep(settings)
    calls = client.info("commandstats")
    assert calls["cmdstat_hlen"]["calls"] == 1
    assert not {"cmdstat_hkeys", "cmdstat_zscore"} & calls.keys()


def test_one_that_lacks_a_lease_gets_it_though_there_are_as_many_leases(
    settings: Settings, client: redis.Redis
) -> None:
    tag = leave(settings, client)
    client.delete(KEYS.unacked_index)
    now_s: Any = client.time()
    # A lease of nothing, which has ended.
    client.zadd(KEYS.unacked_index, {"nothing": now_s[0] - 2000})
    sweep(settings, times=2)
    assert client.zscore(KEYS.unacked_index, tag)
    assert client.zscore(KEYS.unacked_index, "nothing") is None


def test_a_lease_that_begins_in_the_future_begins_now(
    settings: Settings, client: redis.Redis
) -> None:
    tag = leave(settings, client)
    now_s = client.time()[0]
    for later in ("+inf", 1e18, now_s + 5000):
        client.zadd(KEYS.unacked_index, {tag: later})
        sweep(settings)
        assert abs(client.zscore(KEYS.unacked_index, tag) - now_s) < 100  # type: ignore[operator]
    assert not client.llen(KEYS.queue)


def test_a_renewal_restores_a_lease_but_not_a_message_that_is_done(
    settings: Settings, client: redis.Redis
) -> None:
    send(settings)
    with consuming(settings) as (connection, messages):
        take(connection)
        qos = messages[0].channel.qos
        client.delete(KEYS.unacked_index)
        qos.renew()
        assert client.zcard(KEYS.unacked_index) == 1
        # Others have taken it over, and are done.
        client.delete(KEYS.unacked, KEYS.unacked_index)
        qos.renew()
        assert not client.exists(KEYS.unacked, KEYS.unacked_index)


def test_a_lease_that_was_renewed_meanwhile_is_left(
    settings: Settings, client: redis.Redis
) -> None:
    tag, held = leave(settings, client), HeldMessages(KEYS)
    raw = held.look(client, tag)
    assert raw is not None
    assert not held.put_back(client, tag, raw, late_s=0.0)
    assert held.put_back(client, tag, raw)
    assert not held.put_back(client, tag, raw)
    assert client.llen(KEYS.queue) == 1


@pytest.mark.parametrize("key", [KEYS.unacked, KEYS.unacked_index])
def test_a_message_that_cannot_be_noted_stays_where_it_was_taken_to(
    settings: Settings, client: redis.Redis, key: str
) -> None:
    client.set(key, "another application's")
    send(settings)
    with consuming(settings) as (connection, messages):
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            take(connection)
        assert not messages
    assert client.llen(KEYS.processing) == 1
    client.delete(key)
    short = msgspec.structs.replace(settings, visibility_timeout_s=1)
    with consuming(short) as (connection, messages):
        qos = connection.default_channel.qos
        qos.restore_visible()
        qos._processing_since_s = dict.fromkeys(qos._processing_since_s, 0.0)
        qos.restore_visible()
        take(connection)
        assert len(messages) == 1
        messages[0].ack()
    assert not client.exists(KEYS.unacked, KEYS.unacked_index, KEYS.processing, KEYS.queue)


@pytest.mark.parametrize("key", [KEYS.processing, KEYS.newer])
def test_a_step_that_redis_refuses_does_not_keep_the_others_from_theirs(
    settings: Settings, client: redis.Redis, key: str
) -> None:
    leave(settings, client)
    client.set(key, "another application's")
    sweep(settings)
    assert client.llen(KEYS.queue) == 1


def test_what_cannot_be_put_back_stays_held(settings: Settings, client: redis.Redis) -> None:
    tag = leave(settings, client)
    with consuming(settings) as (connection, _):
        client.set(KEYS.queue, "another application's")
        connection.default_channel.qos.restore_visible()
    assert client.hexists(KEYS.unacked, tag)
    assert client.zscore(KEYS.unacked_index, tag)
    client.delete(KEYS.queue)
    sweep(settings)
    assert client.llen(KEYS.queue) == 1
