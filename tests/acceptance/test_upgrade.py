"""Workers of the version before the prefix are replaced one by one, while its producer waits."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import PATIENCE_S, ROOT, STEADY, Fleet, environment, run, until
from images import fill

from worker.contract import legacy
from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.local.subprocesses import start_child, stop_child

pytestmark = pytest.mark.integration

# The last commit without a prefix.
BEFORE = "3e4d518"
LEASE_S = "3"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of that version."""
    packed = subprocess.run(
        ["git", "archive", BEFORE, "producer", "worker", "ops/bench"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if packed.returncode:
        pytest.skip("the history of this checkout does not go back so far")
    directory = tmp_path_factory.mktemp("old")
    with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
        archive.extractall(directory, filter="data")
    return directory


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@dataclass
class OldVersion:
    """Starts programs of that version."""

    directory: Path
    url: str
    stack: ExitStack

    def start(self, *argv: str, out: Path) -> subprocess.Popen[bytes]:
        with out.open("wb") as sink:
            child = start_child(
                [sys.executable, *argv],
                cwd=self.directory,
                env=environment(broker_url=self.url, visibility_timeout_s=LEASE_S)
                | {"PYTHONPATH": str(self.directory)},
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        self.stack.callback(stop_child, child, PATIENCE_S)
        return child

    def worker(self, log: Path) -> subprocess.Popen[bytes]:
        child = self.start(*self.steady, "start", out=log)
        until(lambda: "worker.ready" in log.read_text(errors="replace"))
        return child

    @property
    def steady(self) -> tuple[str, str]:
        return str(self.directory / Path(STEADY[0]).relative_to(ROOT)), STEADY[1]


@pytest.fixture
def before(old: Path, server: EmbeddedRedis, client: redis.Redis) -> Iterator[OldVersion]:
    with ExitStack() as stack:
        yield OldVersion(old, server.url, stack)


def test_no_image_is_lost_while_workers_are_replaced_one_by_one(
    before: OldVersion, client: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    fill(tmp_path / "photos", 800)
    out, said = tmp_path / "out.jsonl", tmp_path / "producer.log"
    first, second = (before.worker(tmp_path / f"old-{n}.log") for n in range(2))
    argv = ("-m", "producer.cli", "submit", str(tmp_path / "photos"), "--out", str(out))
    producer = before.start(*argv, out=said)
    until(lambda: out.exists() and out.read_bytes().count(b"\n") > 50)
    # One is killed with what it holds.
    os.kill(first.pid, signal.SIGKILL)
    fleet.start(before.url, program=STEADY, visibility_timeout_s=LEASE_S)
    until(lambda: out.read_bytes().count(b"\n") > 200)
    assert stop_child(second, PATIENCE_S) == 0
    fleet.start(before.url, program=STEADY, visibility_timeout_s=LEASE_S)
    assert producer.wait(PATIENCE_S) == 0, said.read_text()
    paths = [line["path"] for line in lines_of(out)]
    assert len(paths) == len(set(paths)) == 800
    assert all(line["status"] == "ok" for line in lines_of(out))
    left = (legacy.QUEUE, legacy.PROCESSING, legacy.UNACKED, legacy.UNACKED_INDEX)
    assert not client.exists(*left, KEYS.queue, KEYS.processing, KEYS.unacked)


def test_results_of_a_job_of_before_are_fetched(
    before: OldVersion, client: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    for worker in fleet.workers:
        worker.stop()
    fill(tmp_path / "photos", 100)
    said = tmp_path / "producer.log"
    argv = ("-m", "producer.cli", "submit", str(tmp_path / "photos"), "--no-wait")
    assert before.start(*argv, out=said).wait(PATIENCE_S) == 0
    (job, *_) = re.findall(r"^\d{8}-\d{6}-\w{6}$", said.read_text(), re.MULTILINE)
    done = before.worker(tmp_path / "old.log")
    until(lambda: bool(client.keys(legacy.result("*"))))
    stop_child(done, PATIENCE_S)
    fleet.start(before.url, visibility_timeout_s=LEASE_S)
    out = tmp_path / "out.jsonl"
    fetched = run("producer", "results", job, "--wait", "--out", str(out), broker_url=before.url)
    assert fetched.returncode == 0, fetched.stderr
    assert len({line["path"] for line in lines_of(out)}) == 100
