"""What lies under the names of versions before the prefix: ours is taken, all else is left."""

from __future__ import annotations

import json
from typing import Any

import pytest

from worker.contract import legacy
from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.keys import Keys
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.messages import TASK, URGENT, Chunk, ImageRef
from worker.contract.queue.app import make_app
from worker.contract.queue.envelope import open_envelope
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings
from worker.service.legacy import LegacyQueue, legacy_queue

FOREIGN = '{"body": "W10=", "headers": {"task": "other.task", "id": "x"}, "properties": {}}'
LONG_AGO_S = 1.0


@pytest.fixture
def settings(server: EmbeddedRedis) -> Settings:
    return Settings(broker_url=SecretUrl(server.url))


@pytest.fixture
def old() -> LegacyQueue:
    return LegacyQueue(KEYS, 60)


def message(settings: Settings, client: Any, seq: int = 0, priority: int | None = None) -> bytes:
    """A message as versions before the prefix sent it, taken out of the queue."""
    chunk = Chunk(job="j", seq=seq, images=(ImageRef("/a"),), sent_at_s=1.0)
    app = make_app(settings, stores_results=False)
    app.send_task(TASK, args=[chunk.to_wire()], task_id=chunk.task_id, priority=priority)
    return bytes(client.lpop(KEYS.queue) if priority is None else client.rpop(KEYS.queue))


def ids(client: Any) -> list[str]:
    """The task ids in the queue, the next first."""
    return [open_envelope(raw)["headers"]["id"] for raw in client.lrange(KEYS.queue, 0, -1)[::-1]]


def test_what_waits_is_taken_in_its_order_and_marked_the_urgent_first(
    settings: Settings, client: Any, old: LegacyQueue
) -> None:
    first, second = message(settings, client, 0), message(settings, client, 1)
    urgent = message(settings, client, 2, URGENT)
    client.lpush(legacy.QUEUE, first, second)
    client.rpush(legacy.QUEUE, urgent)
    assert old.take_waiting(client) == 3
    assert ids(client) == ["j-2", "j-0", "j-1"]
    assert not client.exists(legacy.QUEUE)
    (next_one,) = client.lrange(KEYS.queue, -1, -1)
    assert json.loads(next_one)["headers"][legacy.MARK] is True


def test_messages_of_others_in_the_old_queue_are_left(
    settings: Settings, client: Any, old: LegacyQueue
) -> None:
    client.lpush(legacy.QUEUE, FOREIGN, message(settings, client), b"\xff no JSON")
    assert old.take_waiting(client) == 1
    assert client.lrange(legacy.QUEUE, 0, -1) == [b"\xff no JSON", FOREIGN.encode()]


@pytest.mark.parametrize(
    "put",
    [
        lambda client, key: client.set(key, "text"),
        lambda client, key: client.hset(key, "a", "b"),
        lambda client, key: client.zadd(key, {"a": 1}),
        lambda client, key: client.xadd(key, {"a": "b"}),
    ],
    ids=["string", "hash", "sorted set", "stream"],
)
def test_keys_of_other_kinds_under_the_old_names_do_no_harm(
    client: Any, old: LegacyQueue, put: Any
) -> None:
    for key in (legacy.QUEUE, legacy.PROCESSING, legacy.UNACKED, legacy.UNACKED_INDEX):
        put(client, key)
    before = client.dump(legacy.QUEUE)
    assert old.take_waiting(client) == old.take_lost(client) == 0
    assert client.dump(legacy.QUEUE) == before


def test_what_dead_workers_held_is_taken_and_what_others_hold_is_left(
    settings: Settings, client: Any, old: LegacyQueue
) -> None:
    raws = [message(settings, client, seq) for seq in range(2)]
    held = {f"ours-{n}": json.dumps([json.loads(raw), "", "tag"]) for n, raw in enumerate(raws)}
    others = {f"other-{n}": json.dumps([json.loads(FOREIGN), "", "celery"]) for n in range(300)}
    client.hset(legacy.UNACKED, mapping=held | others)
    seconds, _ = client.time()
    client.zadd(legacy.UNACKED_INDEX, dict.fromkeys(others, LONG_AGO_S))
    # Of one the lease has ended, behind all of the others; the other one's is renewed.
    client.zadd(legacy.UNACKED_INDEX, {"ours-0": LONG_AGO_S + 1, "ours-1": float(seconds)})
    assert sum(old.take_lost(client) for _ in range(4)) == 1
    assert ids(client) == ["j-0"]
    (raw,) = client.lrange(KEYS.queue, 0, -1)
    assert json.loads(raw)["properties"]["delivery_info"]["redelivered"] is True
    assert client.hlen(legacy.UNACKED) == client.zcard(legacy.UNACKED_INDEX) == 301
    assert client.hexists(legacy.UNACKED, "ours-1")


def test_a_message_left_on_the_old_processing_list_is_taken_after_a_lease(
    settings: Settings, client: Any
) -> None:
    client.lpush(legacy.PROCESSING, message(settings, client), FOREIGN)
    patient, hasty = LegacyQueue(KEYS, 60), LegacyQueue(KEYS, 0)
    assert patient.take_lost(client) == patient.take_lost(client) == 0
    assert sum(hasty.take_lost(client) for _ in range(2)) == 1
    assert client.lrange(legacy.PROCESSING, 0, -1) == [FOREIGN.encode()]


def test_a_long_queue_leaves_the_old_one_to_old_workers(
    settings: Settings, client: Any, old: LegacyQueue
) -> None:
    client.lpush(KEYS.queue, *["x"] * 100)
    client.lpush(legacy.QUEUE, message(settings, client))
    assert old.take_waiting(client) == 0


def test_only_the_default_prefix_serves_the_old_names() -> None:
    assert legacy_queue(Settings()) is not None
    assert legacy_queue(Settings(prefix="other")) is None
    assert not legacy.is_served(Keys("wanwu" + "2:"))
