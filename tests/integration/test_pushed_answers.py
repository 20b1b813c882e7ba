"""An answer to `POST /predict` comes as a worker publishes it; what gets lost there is found."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from conftest import PATIENCE_S, until

from producer.api import urgent_queue
from producer.api.urgent_queue import PredictRequest, UrgentQueue
from producer.backend.connection import Connection, open_connection
from producer.jobs.options import JobOptions
from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.messages import ChunkResult, ImageResult
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings
from worker.contract.stores.job_records import success_body

pytestmark = pytest.mark.integration

REQUEST = PredictRequest(name="a.jpg", data=b"x", options=JobOptions())
LONG_S = 3600.0


def result(urgent: UrgentQueue, seq: int = 0) -> ChunkResult:
    image = ImageResult(path="a.jpg")
    return ChunkResult(
        job=urgent._job, seq=seq, worker="w", device="cpu", model="m", images=(image,)
    )


def asks(client: Any) -> int:
    """How often results were asked for."""
    return int(client.info("commandstats").get("cmdstat_mget", {"calls": 0})["calls"])


async def asked(
    connection: Connection,
    answer: Callable[[UrgentQueue], object],
    *,
    pushed: bool = True,
) -> Any:
    """Ask, let `answer` do what a worker does, and return what comes of it."""
    urgent = UrgentQueue(connection)
    urgent.start()
    try:
        await _until(lambda: urgent._pushed.is_live == pushed)
        asking = asyncio.create_task(urgent.ask(REQUEST, PATIENCE_S))
        await _until(lambda: bool(connection.client.llen(KEYS.queue)))
        answer(urgent)
        return await asking
    finally:
        await urgent.stop()


def _until(found: Callable[[], bool]) -> Awaitable[None]:
    return asyncio.to_thread(until, found)


@pytest.fixture
def settings(server: EmbeddedRedis, client: Any) -> Settings:
    return Settings(broker_url=SecretUrl(server.url))


def test_an_answer_is_pushed_and_nobody_asks_for_it(
    settings: Settings, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urgent_queue, "_PUSHED_LOOK_S", LONG_S)
    before = asks(client)
    with open_connection(settings) as connection:

        def answer(urgent: UrgentQueue) -> None:
            body = success_body(result(urgent))
            connection.jobs.finish_chunk(urgent._job, 0, images=1, failed=0, body=body)

        found = asyncio.run(asked(connection, answer))
    assert found.images[0].path == "a.jpg"
    assert asks(client) == before
    # It is dropped all the same.
    assert client.keys(KEYS.result("*")) == []


def test_an_answer_that_was_stored_and_not_heard_is_found(settings: Settings, client: Any) -> None:
    with open_connection(settings) as connection:

        def answer(urgent: UrgentQueue) -> None:
            key = KEYS.result(f"{urgent._job}-0")
            # What anybody may publish there.
            client.publish(key, b"junk")
            client.publish(key, b"[]")
            client.publish(KEYS.result("now-other-0"), success_body(result(urgent)))
            client.set(key, success_body(result(urgent)))

        found = asyncio.run(asked(connection, answer))
    assert found.images[0].path == "a.jpg"
    assert client.keys(KEYS.result("*")) == []


@pytest.mark.parametrize("pushed", [False, True])
def test_who_may_not_subscribe_asks_for_answers(
    server: EmbeddedRedis, client: Any, caplog: pytest.LogCaptureFixture, *, pushed: bool
) -> None:
    rules = ["~*", "resetchannels", "&wanwu:/0.celery.pidbox", "+@all"]
    # As ops/docs/deployment.md has it.
    rules += ["&wanwu:celery-task-meta-now-*"] if pushed else []
    client.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">pw", *rules)
    url = f"redis://limited:pw@{server.url.rpartition('@')[2].removeprefix('redis://')}"
    try:
        with open_connection(Settings(broker_url=SecretUrl(url))) as connection:

            def answer(urgent: UrgentQueue) -> None:
                client.set(KEYS.result(f"{urgent._job}-0"), success_body(result(urgent)))

            found = asyncio.run(asked(connection, answer, pushed=pushed))
        assert found.images[0].path == "a.jpg"
        assert ("answers are asked for, not pushed" in caplog.text) != pushed
    finally:
        client.execute_command("ACL", "DELUSER", "limited")


def test_a_connection_that_is_closed_is_made_again(settings: Settings, client: Any) -> None:
    with open_connection(settings) as connection:

        def answer(urgent: UrgentQueue) -> None:
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            body = success_body(result(urgent))
            connection.jobs.finish_chunk(urgent._job, 0, images=1, failed=0, body=body)
            until(lambda: urgent._pushed.is_live)

        found = asyncio.run(asked(connection, answer))
    assert found.images[0].path == "a.jpg"
