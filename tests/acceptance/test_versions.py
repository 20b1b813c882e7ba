"""Programs of two versions at one queue: what each can read is tagged, and nothing is lost."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import PATIENCE_S, ROOT, STEADY, Fleet, environment, run, until
from images import fill

from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.messages import WIRE_VERSION, Chunk, ImageRef
from worker.contract.queue.app import make_app
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings
from worker.contract.stores.dead_letters import DeadLetters
from worker.contract.stores.jobs import JobStore

pytestmark = pytest.mark.integration

IMAGES = 24
LEASE_S = "6"


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with the packages of a version that is to come: its chunks have a field more."""
    tree = tmp_path_factory.mktemp("later")
    for package in ("worker", "producer"):
        shutil.copytree(ROOT / package, tree / package)
    file = tree / "worker" / "contract" / "messages.py"
    text, versions = re.subn(
        rf"WIRE_VERSION: Final = {WIRE_VERSION}\b",
        f"WIRE_VERSION: Final = {WIRE_VERSION + 1}",
        file.read_text(encoding="utf-8"),
    )
    text, fields = re.subn(r"(    sent_at_s: float\n)", r'\1    to_come: str = "x"\n', text)
    assert (versions, fields) == (1, 1)
    file.write_text(text, encoding="utf-8")
    return tree


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    (tmp_path / "logs").mkdir()
    with ExitStack() as stack:
        yield Fleet(tmp_path / "logs", stack)


def run_later(tree: Path, url: str, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "producer.cli", *argv],
        cwd=tree,
        env=environment(broker_url=url) | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def statuses(file: Path) -> list[str]:
    return [json.loads(line)["status"] for line in file.read_text(encoding="utf-8").splitlines()]


def test_two_versions_share_a_queue_and_each_image_is_tagged(
    server: EmbeddedRedis, client: redis.Redis, fleet: Fleet, later: Path, tmp_path: Path
) -> None:
    lists: Any = client
    photos = tmp_path / "photos"
    fill(photos, IMAGES)
    now = fleet.start(server.url, program=STEADY, visibility_timeout_s=LEASE_S)
    sent = run_later(later, server.url, "submit", str(photos), "--no-wait")
    assert sent.returncode == 0, sent.stderr
    job = sent.stdout.strip()
    until(
        lambda: (
            lists.llen(KEYS.newer) > 0
            and not client.exists(KEYS.queue, KEYS.turns, KEYS.processing)
        )
    )

    # What this version can read is not held up by what it cannot.
    out = tmp_path / "now.jsonl"
    done = run("producer", "submit", str(photos), "--out", str(out), broker_url=server.url)
    assert (done.returncode, statuses(out)) == (0, ["ok"] * IMAGES), done.stderr
    assert JobStore(client, 60).get(job).done == 0
    assert now.text.count("message.newer") == 1, "it is said once"
    seen = run("producer", "doctor", broker_url=server.url)
    assert "of a later version" in seen.stdout + seen.stderr
    assert "of a later version" in run("producer", "status", broker_url=server.url).stdout

    variables = {"PYTHONPATH": str(later)}
    fleet.start(server.url, program=STEADY, variables=variables, visibility_timeout_s=LEASE_S)
    out = tmp_path / "later.jsonl"
    done = run_later(later, server.url, "results", job, "--wait", "--out", str(out))
    assert (done.returncode, statuses(out)) == (0, ["ok"] * IMAGES), done.stderr
    assert not client.exists(KEYS.newer)

    # And the other way round: workers of the later version alone.
    assert now.stop() == 0
    out = tmp_path / "then.jsonl"
    done = run("producer", "submit", str(photos), "--out", str(out), broker_url=server.url)
    assert (done.returncode, statuses(out)) == (0, ["ok"] * IMAGES), done.stderr
    assert DeadLetters(client).count() == 0


def test_what_no_worker_can_read_is_kept_whole_and_sent_again_as_it_was(
    server: EmbeddedRedis, client: redis.Redis, fleet: Fleet, later: Path, tmp_path: Path
) -> None:
    lists: Any = client
    photos = tmp_path / "photos"
    fill(photos, IMAGES)
    sent = run_later(later, server.url, "submit", str(photos), "--no-wait")
    job = sent.stdout.strip()
    messages = sorted(lists.lrange(KEYS.queue, 0, -1))
    patience = ROOT / "tests" / "support" / "impatient_worker.py"
    one = fleet.start(server.url, program=(str(patience),), visibility_timeout_s=LEASE_S)
    dead, jobs = DeadLetters(client), JobStore(client, 60)
    until(lambda: dead.count() == len(messages) and jobs.get(job).finished)
    found = jobs.get(job)
    assert (found.failed, dict(found.codes)) == (IMAGES, {"lost": IMAGES})
    letters = dead.list()
    assert {letter.code for letter in letters} == {"newer_version"}
    assert sorted(letter.raw.encode() for letter in letters) == messages
    assert one.stop() == 0

    again = run("producer", "requeue", "--all", broker_url=server.url)
    assert again.returncode == 0, again.stderr
    assert again.stdout.split() == [job]
    assert sorted(lists.lrange(KEYS.queue, 0, -1)) == messages
    assert (jobs.get(job).done, jobs.get(job).failed, dead.count()) == (0, 0, 0)

    fleet.start(server.url, program=STEADY, variables={"PYTHONPATH": str(later)})
    out = tmp_path / "out.jsonl"
    done = run("producer", "results", job, "--wait", "--out", str(out), broker_url=server.url)
    assert done.returncode in {0, 3}, done.stderr
    assert jobs.get(job).codes == {"lost": 0}


def test_a_message_of_this_version_with_fields_more_is_tagged(
    server: EmbeddedRedis, client: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    jobs = JobStore(client, 60)
    job = jobs.create()
    (photo,) = fill(tmp_path / "photos", 1)
    image = ImageRef(str(photo))
    chunk = Chunk(job=job.id, seq=0, images=(image,), sent_at_s=1.0)
    wire = chunk.to_wire() | {"to_come": {"a": 1}}
    wire["images"][0]["to_come"] = 2
    jobs.set_sent(job.id, images=1, chunks=1)
    app = make_app(Settings(broker_url=SecretUrl(server.url)), stores_results=False)
    app.send_task("worker.tag", args=[wire], task_id=chunk.task_id)
    jobs.set_state(job.id, "submitted")
    fleet.start(server.url, program=STEADY)
    until(lambda: jobs.get(job.id).finished)
    assert jobs.get(job.id).failed == 0
