"""A name of ours that holds something of another type is named, wherever that stops the work."""

from __future__ import annotations

import pytest
import redis
from conftest import run

from producer.backend.connection import open_connection
from producer.errors import UnavailableError
from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.redis.key_types import explained, is_wrong_type, wrong_type
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings

NAMES = (
    *(KEYS.queue, KEYS.urgent_queue, KEYS.turns, KEYS.processing, KEYS.newer),
    *(KEYS.unacked, KEYS.unacked_index, KEYS.jobs, KEYS.dead, KEYS.claims),
)


@pytest.mark.parametrize("key", NAMES)
def test_each_name_is_found(client: redis.Redis, key: str) -> None:
    assert wrong_type(client, KEYS) is None
    client.set(key, "another application's")
    assert str(wrong_type(client, KEYS)).startswith(f"{key} is of type string and not ")
    error = redis.ResponseError("WRONGTYPE Operation against a key holding the wrong kind")
    assert is_wrong_type(error)
    assert key in explained(error, client, KEYS)
    assert explained(redis.ConnectionError("gone"), client, KEYS) == "gone"


def test_those_of_a_job_are_found_too(client: redis.Redis) -> None:
    for key in (KEYS.waiting("j"), KEYS.job("j"), KEYS.done("j")):
        client.zadd(key, {"x": 1})
        assert f"{key} is of type zset" in str(wrong_type(client, KEYS, "j"))
        client.delete(key)
    # Jobs whose messages wait: a worker meets each of their lists.
    client.zadd(KEYS.turns, {"j": 0})
    client.set(KEYS.waiting("j"), "x")
    assert f"{KEYS.waiting('j')} is of type string" in str(wrong_type(client, KEYS))
    client.delete(KEYS.turns)
    client.zadd(KEYS.turns, {"\x1b[2J": 0})
    client.set(KEYS.waiting("\x1b[2J"), "x")
    assert "\x1b" not in str(wrong_type(client, KEYS))


def test_whoever_waits_for_a_job_and_whoever_fails_is_told(
    server: EmbeddedRedis, client: redis.Redis
) -> None:
    settings = Settings(broker_url=SecretUrl(server.url))
    with open_connection(settings) as connection:
        job = connection.jobs.create().id
        client.set(KEYS.urgent_queue, "x")
        assert f"{KEYS.urgent_queue} is of type string" in connection.stall_reason(job)
    client.delete(KEYS.urgent_queue, KEYS.jobs)
    client.set(KEYS.jobs, "x")
    with (
        pytest.raises(UnavailableError, match=f"refuses work: {KEYS.jobs} is of type string"),
        open_connection(settings) as connection,
    ):
        connection.jobs.create()


@pytest.mark.parametrize("argv", [("status",), ("doctor",), ("requeue", "--all")])
def test_the_commands_name_it(
    server: EmbeddedRedis, client: redis.Redis, argv: tuple[str, ...]
) -> None:
    key = KEYS.dead if argv[0] == "requeue" else KEYS.jobs
    client.set(key, "x")
    done = run("producer", *argv, broker_url=server.url)
    assert done.returncode == 1
    assert f"{key} is of type string and not " in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
