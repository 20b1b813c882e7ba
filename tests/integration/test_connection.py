"""Where a command works, and what it says when nothing comes."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from server import Server

from producer.backend.connection import JobLostError, open_desk
from producer.backend.workers import online
from worker.contract.redis.connections import BrokerUnreachableError
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings

CLOSED = "Connection closed by server."


def test_when_nothing_comes_the_reason_is_told_and_none_is_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server(tmp_path) as server, open_desk(Settings(broker_url=SecretUrl(server.url))) as desk:
        job = desk.jobs.create().id
        assert "no worker is online" in desk.hitch(job)
        server.stop()
        assert desk.hitch(job).startswith("cannot reach Redis at ")
        # Between the question to the workers and the one about the job.
        monkeypatch.setattr(type(desk), "worker", "somebody")

        def gone(_: str) -> None:
            raise redis.ConnectionError(CLOSED)

        monkeypatch.setattr(desk.jobs, "get", gone)
        assert desk.hitch(job).startswith("cannot reach Redis at ")


def test_a_redis_that_closes_while_workers_answer_is_unreachable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Server(tmp_path) as server, open_desk(Settings(broker_url=SecretUrl(server.url))) as desk:

        def closed(_: object) -> None:
            raise redis.ConnectionError(CLOSED)

        monkeypatch.setattr("celery.app.control.Inspect.stats", closed)
        with pytest.raises(BrokerUnreachableError, match="Connection closed by server"):
            online(desk.app, 0.1)


def test_a_job_that_redis_has_lost_will_never_come(tmp_path: Path) -> None:
    with Server(tmp_path) as server, open_desk(Settings(broker_url=SecretUrl(server.url))) as desk:
        job = desk.jobs.create().id
        desk.client.flushall()
        # Nobody is online here, so nobody could answer either.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(desk), "worker", "somebody")
            with pytest.raises(JobLostError, match="has lost job"):
                desk.hitch(job)
