"""How often a chunk asks Redis: each of a thousand workers does, and one Redis answers all."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from conftest import ROOT, environment, until
from redis_load import RoundTrips, fill

from producer.backend.connection import open_connection
from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.local.subprocesses import start_child, stop_child
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings

pytestmark = pytest.mark.integration

CHUNKS = 100
GRACE_S = 10.0


def test_a_chunk_costs_a_worker_two_commands(server: EmbeddedRedis, client: Any) -> None:
    """It is taken and leased by one, and stored, counted and acknowledged by the other."""
    trips = RoundTrips(client)
    script = str(ROOT / "ops" / "bench" / "answering.py")
    variables = environment(broker_url=server.url) | {"WANWU_TASK_EVENTS": "0"}
    with open_connection(Settings(broker_url=SecretUrl(server.url))) as connection:
        job = fill(connection, CHUNKS, 8)
        with trips.counting():
            worker = start_child([sys.executable, script], env=variables)
            try:
                until(lambda: client.hget(KEYS.job(job), "done") == str(8 * CHUNKS).encode())
            finally:
                stop_child(worker, GRACE_S)
        assert len(connection.jobs.collect(job, range(CHUNKS))) == CHUNKS
    assert not client.exists(KEYS.unacked, KEYS.unacked_index, KEYS.processing)
    of_chunks = trips.counts["evalsha"] + trips.counts["eval"]
    # The rest are scripts that Redis did not know yet, and those that found nothing more to take.
    assert 2 * CHUNKS <= of_chunks <= 2 * CHUNKS + 20
    asked = {name: n for name, n in trips.counts.items() if n >= CHUNKS / 2}
    # Asked by this test, and once by a job that is finished: so long its results are kept.
    assert asked.keys() <= {"evalsha", "hget", "expire"}
