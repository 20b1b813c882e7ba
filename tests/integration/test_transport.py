"""How messages are moved, leased and delivered: our transport on a real Redis."""

from __future__ import annotations

import base64
import json
import time
from contextlib import suppress
from typing import Any

import msgspec
import pytest
import redis
from celery import Celery
from conftest import PATIENCE_S
from consumers import consuming, send, take
from hypothesis import given
from hypothesis import strategies as st

from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.messages import URGENT
from worker.contract.queue.acks_and_leases import Leases
from worker.contract.queue.envelope import EnvelopeError, open_envelope
from worker.contract.queue.fair import FairQueue
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings
from worker.contract.stores.dead_letters import DeadLetters

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture
def settings(server: EmbeddedRedis, client: redis.Redis) -> Settings:
    return Settings(broker_url=SecretUrl(server.url), visibility_timeout_s=1)


def test_a_message_is_in_one_place_from_the_queue_to_its_acknowledgement(
    settings: Settings, client: redis.Redis
) -> None:
    send(settings)
    with consuming(settings) as (connection, messages):
        take(connection)
        assert len(messages) == 1
        assert (client.llen(KEYS.queue), client.llen(KEYS.processing)) == (0, 0)
        assert client.hlen(KEYS.unacked) == client.zcard(KEYS.unacked_index) == 1
        messages[0].ack()
        assert not client.exists(KEYS.unacked, KEYS.unacked_index)


def test_a_redis_that_has_forgotten_the_script_is_told_it_again(
    settings: Settings, client: redis.Redis
) -> None:
    with consuming(settings) as (connection, messages):
        for seq in range(2):
            send(settings, seq)
            client.script_flush()
            take(connection)
            assert len(messages) == seq + 1
            messages[seq].ack()
    assert not client.exists(KEYS.unacked, KEYS.unacked_index, KEYS.processing, KEYS.queue)


def test_a_message_left_on_the_processing_list_goes_back(
    settings: Settings, client: redis.Redis
) -> None:
    send(settings)
    # A worker took it, and was killed before it could note that it holds it.
    client.lmove(KEYS.queue, KEYS.processing, "RIGHT", "LEFT")
    with consuming(settings) as (connection, messages):
        qos = connection.default_channel.qos
        qos.restore_visible()
        assert client.llen(KEYS.processing) == 1
        time.sleep(1.1)
        qos.restore_visible()
        assert (client.llen(KEYS.queue), client.llen(KEYS.processing)) == (1, 0)
        take(connection)
        assert len(messages) == 1
        messages[0].ack()


def test_a_lease_lasts_as_long_as_it_is_renewed(settings: Settings, client: redis.Redis) -> None:
    settings = msgspec.structs.replace(settings, visibility_timeout_s=1000)
    send(settings)

    def pass_by(seconds: float) -> None:
        """Let all leases be older, as seen from Redis."""
        tags: Any = client.zrange(KEYS.unacked_index, 0, -1)
        for tag in tags:
            client.zincrby(KEYS.unacked_index, -seconds, tag)

    with consuming(settings) as (holder, held), consuming(settings) as (other, others):
        take(holder)
        renewing: Leases = held[0].channel.qos
        for _ in range(4):
            pass_by(500)
            other.default_channel.qos.restore_visible()
            assert not client.llen(KEYS.queue)
            renewing.renew()
        pass_by(1001)
        other.default_channel.qos.restore_visible()
        take(other)
        assert len(others) == 1
        assert others[0].delivery_info["redelivered"]
        others[0].ack()
        # A sign of life that comes too late brings nothing back.
        renewing.renew()
        assert not client.exists(KEYS.unacked, KEYS.unacked_index, KEYS.queue)


def test_a_channel_whose_connection_is_gone_closes_in_peace(
    settings: Settings, client: redis.Redis
) -> None:
    send(settings)
    with consuming(settings) as (connection, messages):
        take(connection)
        qos, transport = messages[0].channel.qos, messages[0].channel.connection
        # As when Celery closes what was collected already.
        kept, transport.client = transport.client, None
        qos.restore_unacked()
        transport.client = kept
    assert client.hlen(KEYS.unacked) == 1


def test_leases_do_not_ask_what_time_the_host_has(
    settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(settings)
    true_time = time.time
    with consuming(settings) as (holder, held), consuming(settings) as (other, _):
        monkeypatch.setattr(time, "time", lambda: true_time() - 86_400)
        take(holder)
        monkeypatch.undo()
        held[0].channel.qos.renew()
        monkeypatch.setattr(time, "time", lambda: true_time() + 86_400)
        other.default_channel.qos.restore_visible()
        assert not client.llen(KEYS.queue)
        monkeypatch.undo()
        held[0].ack()


@pytest.mark.parametrize("raw", [b"", b"{}", b"\xff\xfe", b"[[[]]]", b'"tag"', b"[" * 100_000])
def test_what_is_no_message_becomes_a_dead_letter(
    settings: Settings, client: redis.Redis, raw: bytes
) -> None:
    client.lpush(KEYS.queue, raw)
    send(settings)
    with consuming(settings) as (connection, messages):
        take(connection)
        take(connection)
        assert len(messages) == 1
        messages[0].ack()
    (letter,) = DeadLetters(client).list()
    assert letter.code == "unreadable_message"
    assert not client.exists(KEYS.processing, KEYS.queue, KEYS.unacked)


def real_message(settings: Settings, client: redis.Redis) -> dict[str, Any]:
    send(settings)
    found: dict[str, Any] = json.loads(str(client.rpop(KEYS.queue), "utf-8"))  # type: ignore[arg-type]
    return found


def test_a_producer_s_message_is_opened_as_it_is(settings: Settings, client: redis.Redis) -> None:
    message = real_message(settings, client)
    assert open_envelope(json.dumps(message).encode()) == message


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("headers.task", "os.system"),
        ("headers.id", 7),
        ("headers.eta", "tomorrow"),
        ("headers.timelimit", [1]),
        ("headers.retries", -1),
        ("headers.compression", "zlib"),
        ("headers.group", "g"),
        ("content-type", "application/x-python-serialize"),
        ("content-encoding", "rot13"),
        ("properties.body_encoding", "none"),
        ("properties.delivery_tag", ["x"]),
        ("properties.delivery_info", {}),
        ("body", "no base64"),
        ("body", base64.b64encode(b"{}").decode()),
        ("body", base64.b64encode(b"[[], {}, {}]").decode()),
        ("body", base64.b64encode(b'[[{}], {"wire": {}}, {}]').decode()),
        ("body", base64.b64encode(b'[[{}], {}, {"chord": "x"}]').decode()),
    ],
)
def test_a_message_that_differs_from_a_producer_s_is_refused(
    settings: Settings, client: redis.Redis, part: str, value: object
) -> None:
    message = real_message(settings, client)
    *way, last = part.split(".")
    inner = message
    for name in way:
        inner = inner[name]
    inner[last] = value
    with pytest.raises(EnvelopeError):
        open_envelope(json.dumps(message).encode())


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_whatever_lies_in_the_queue_is_a_message_or_refused(raw: bytes) -> None:
    with pytest.raises(EnvelopeError):
        open_envelope(raw)


def test_an_urgent_message_is_the_next(settings: Settings, client: redis.Redis) -> None:
    for seq in range(3):
        send(settings, seq)
    send(settings, 9, priority=URGENT)
    with consuming(settings) as (connection, messages):
        take(connection)
        take(connection)
    assert [message.headers["id"] for message in messages] == ["j-9", "j-0"]


def test_without_capacity_only_urgent_messages_are_taken(
    settings: Settings, client: redis.Redis
) -> None:
    # A name cannot make a message look urgent.
    send(settings, 0, path='/", "priority": 9, "')
    with consuming(settings) as (connection, messages):
        channel = connection.default_channel
        assert not channel.take_urgent()
        send(settings, 1, priority=URGENT)
        send(settings, 2, priority=URGENT)
        assert channel.take_urgent()
        assert channel.take_urgent()
        assert not channel.take_urgent()
        # Held and noted like all others.
        assert client.hlen(KEYS.unacked) == 2
        assert client.llen(KEYS.processing) == 0
    assert [message.headers["id"] for message in messages] == ["j-2", "j-1"]
    assert FairQueue(KEYS).size(client) == 3


def test_an_urgent_message_that_comes_back_is_still_urgent(
    settings: Settings, client: redis.Redis
) -> None:
    send(settings, 0)
    send(settings, 1, priority=URGENT)
    with consuming(settings) as (connection, messages):
        assert connection.default_channel.take_urgent()
        messages.pop().reject(requeue=True)
    with consuming(settings) as (connection, messages):
        assert FairQueue(KEYS).size(client) == 2
        assert connection.default_channel.take_urgent()
        assert messages[0].headers["id"] == "j-1"
        messages[0].ack()


def test_urgent_messages_are_possible_only_while_somebody_sends_them(
    settings: Settings, client: redis.Redis
) -> None:
    with consuming(settings) as (connection, _):
        assert not connection.default_channel.is_urgency_possible()
        client.set(KEYS.urgent, "1")
        assert connection.default_channel.is_urgency_possible()


def test_waiting_for_a_message_does_not_keep_others_waiting(
    settings: Settings, client: redis.Redis
) -> None:
    with consuming(settings) as (connection, messages):
        channel = connection.default_channel
        channel.brpop_timeout = PATIENCE_S
        with suppress(TimeoutError):
            connection.drain_events(timeout=0.1)
        assert client.info("clients")["blocked_clients"] == 1
        # None of these has to wait until that has ended.
        assert not channel.take_urgent()
        send(settings)
        take(connection)
        assert len(messages) == 1
        messages[0].ack()


def test_an_application_of_celerys_in_the_same_process_keeps_its_own_transport(
    settings: Settings, server: EmbeddedRedis, client: redis.Redis
) -> None:
    send(settings)
    stock = Celery("stock", broker=server.url, set_as_current=False)
    stock.send_task("their.task")
    assert client.llen("celery") == 1
    with stock.connection_for_read() as connection:
        assert type(connection.transport).__module__.startswith("kombu.")
    assert client.llen(KEYS.queue) == 1
