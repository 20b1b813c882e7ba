"""Where a command works, and what it says when nothing comes."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import pytest
import redis
from conftest import until
from server import Server

from producer.backend.connection import open_connection
from producer.backend.local_worker import Answer
from producer.backend.workers import online
from producer.errors import JobLostError
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.queue.app import make_app
from worker.contract.redis.connections import BrokerUnreachableError, connect
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings

CLOSED = "Connection closed by server."


def test_when_nothing_comes_the_reason_is_told_and_none_is_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        Server(tmp_path) as server,
        open_connection(Settings(broker_url=SecretUrl(server.url))) as connection,
    ):
        job = connection.jobs.create().id
        assert "no worker is online" in connection.stall_reason(job)
        server.stop()
        assert connection.stall_reason(job).startswith("cannot reach Redis at ")
        # Between the question to the workers and the one about the job.
        monkeypatch.setattr(type(connection), "first_worker", lambda _: "somebody")

        def gone(_: str) -> None:
            raise redis.ConnectionError(CLOSED)

        monkeypatch.setattr(connection.jobs, "get", gone)
        assert connection.stall_reason(job).startswith("cannot reach Redis at ")


def test_a_redis_that_closes_while_workers_answer_is_unreachable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (
        Server(tmp_path) as server,
        open_connection(Settings(broker_url=SecretUrl(server.url))) as connection,
    ):

        def closed(_: object) -> None:
            raise redis.ConnectionError(CLOSED)

        monkeypatch.setattr("celery.app.control.Inspect.stats", closed)
        with pytest.raises(BrokerUnreachableError, match="Connection closed by server"):
            online(connection.app, 0.1)


def test_more_threads_than_celery_has_connections_ask_workers_at_a_time(tmp_path: Path) -> None:
    threads, answers = 24, list[int]()
    with (
        Server(tmp_path) as server,
        open_connection(Settings(broker_url=SecretUrl(server.url))) as connection,
    ):
        before = len(connection.client.client_list())
        together = threading.Barrier(threads)

        def ask() -> None:
            together.wait()
            answers.append(len(online(connection.app, 0.5)))

        for _ in range(threads):
            threading.Thread(target=ask, daemon=True).start()
        until(lambda: answers == [0] * threads)
        # None of their connections is left.
        until(lambda: len(connection.client.client_list()) == before)


def test_a_job_that_redis_has_lost_will_never_come(tmp_path: Path) -> None:
    with (
        Server(tmp_path) as server,
        open_connection(Settings(broker_url=SecretUrl(server.url))) as connection,
    ):
        job = connection.jobs.create().id
        connection.client.flushall()
        # Nobody is online here, so nobody could answer either.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(connection), "first_worker", lambda _: "somebody")
            with pytest.raises(JobLostError, match="has lost job"):
                connection.stall_reason(job)


def test_a_worker_is_asked_as_soon_as_one_listens_and_not_before() -> None:
    with EmbeddedRedis() as server, connect(server.url) as client:
        app = make_app(Settings(broker_url=SecretUrl(server.url)), stores_results=False)
        with closing(app), client.pubsub() as listener:
            answer = Answer(app, client, print, print)
            assert not answer()
            assert "cmdstat_publish" not in client.info("commandstats")
            listener.psubscribe("*")
            until(client.pubsub_numpat)
            assert not answer()
            assert client.info("commandstats")["cmdstat_publish"]["calls"] == 1
