"""Chunks from a Celery application that knows nothing of this package, as ops/docs/wire.md says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from conftest import PATIENCE_S, ROOT, Fleet, Worker
from images import fill

from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.labels import LabelPack
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.messages import Chunk, ChunkResult, ImageRef, ImageResult
from worker.contract.stores.dead_letters import FOREIGN_ID, UNREADABLE, DeadLetters

pytestmark = pytest.mark.integration

PAGE = (ROOT / "ops/docs/wire.md").read_text(encoding="utf-8")
MOST_LINES = 30
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
# Another program: it sends what it reads, and writes what comes back.
OTHER = """
import json, sys
from celery import Celery
broker, message = sys.argv[1], json.loads(sys.argv[2])
app = Celery("other", broker=broker, backend=broker)
app.conf.broker_transport_options = {"global_keyprefix": "wanwu:"}
app.conf.result_backend_transport_options = {"global_keyprefix": "wanwu:"}
task = app.send_task("worker.tag", queue="tag", **message)
try:
    print(json.dumps(task.get(timeout=float(sys.argv[3]))))
except Exception as e:
    print(json.dumps([type(e).__name__, str(e)]))
"""


@pytest.fixture(scope="module")
def worker(server: EmbeddedRedis, fleet: Fleet) -> Worker:
    return fleet.start(server.url)


def python(code: str, *arguments: str) -> str:
    """Run a program in a process of its own, from where it cannot import this package."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def answer(server: EmbeddedRedis, **message: Any) -> Any:
    return json.loads(python(OTHER, server.url, json.dumps(message), str(PATIENCE_S)))


def chunk(job: str, seq: int, *paths: Path) -> dict[str, Any]:
    images = [{"path": str(path)} for path in paths]
    return {"v": 1, "job": job, "seq": seq, "images": images, "sent_at_s": time.time()}


def test_the_example_is_short_and_does_what_the_page_says(
    server: EmbeddedRedis, client: redis.Redis, worker: Worker, tmp_path: Path
) -> None:
    assert len(EXAMPLE.splitlines()) <= MOST_LINES
    first, second = fill(tmp_path, 2)
    here = {
        "redis://localhost:6379/0": server.url,
        "/photos/a.jpg": str(first),
        "/photos/b.jpg": str(second),
    }
    example = EXAMPLE
    for there, path in here.items():
        assert there in example
        example = example.replace(there, path)
    lines = python(example).splitlines()
    assert [line.partition(" [")[0] for line in lines] == [str(first), str(second)]
    assert all("'label': '" in line and line.endswith(" None") for line in lines)


def test_a_chunk_with_its_own_id_is_answered_and_another_id_is_refused_at_once(
    server: EmbeddedRedis, client: redis.Redis, worker: Worker, tmp_path: Path
) -> None:
    (path,) = fill(tmp_path, 1)
    found = answer(server, task_id="mine-0", args=[chunk("mine", 0, path)])
    (image,) = found["images"]
    assert (found["job"], found["seq"], image["path"]) == ("mine", 0, str(path))
    assert image["tags"]
    assert not DeadLetters(client).count()

    kind, reason = answer(server, task_id="not-mine", args=[chunk("mine", 1, path)])
    assert kind == "ForeignIdError"
    assert "task_id='mine-1'" in reason
    (letter,) = DeadLetters(client).list()
    assert letter.code == FOREIGN_ID
    assert letter.chunk is not None
    assert letter.chunk.task_id == "mine-1"
    assert "not-mine" in letter.reason
    worker.wait_for("message.refused")
    assert "not-mine" in worker.text
    # Nothing was stored where nobody looks for it, and nothing is left.
    assert not client.exists(KEYS.result("mine-1"), KEYS.queue, KEYS.unacked)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"args": [{"v": 1}]}, "missing required field"),
        ({"args": [{"v": 0}]}, "version 0 is not 1"),
        ({"args": []}, "not a message for a worker"),
        ({"args": [{}], "expires": 60}, "expires"),
    ],
)
def test_a_message_that_cannot_be_processed_fails_for_whoever_waits(
    server: EmbeddedRedis, client: redis.Redis, worker: Worker, message: dict[str, Any], reason: str
) -> None:
    kind, said = answer(server, task_id="mine-0", **message)
    assert kind == "MessageError"
    assert reason in said
    (letter,) = DeadLetters(client).list()
    assert letter.code == UNREADABLE
    assert reason in letter.reason
    assert reason in worker.text
    assert not client.exists(KEYS.queue, KEYS.unacked)


@pytest.mark.parametrize(
    ("heading", "shape"),
    [
        ("The chunk", Chunk),
        ("An image", ImageRef),
        ("A label pack", LabelPack),
        ("The result", ChunkResult),
    ],
)
def test_the_page_names_every_field_with_its_default(
    heading: str, shape: type[msgspec.Struct]
) -> None:
    (section,) = re.findall(rf"^#+ {heading}\n(.*?)(?=^#|\Z)", PAGE, re.DOTALL | re.MULTILINE)
    tables = re.findall(r"^\| Field .*?(?=\n\n|\Z)", section, re.DOTALL | re.MULTILINE)
    assert fields(tables[0]) == expected(shape, has_defaults="Default" in tables[0])
    if shape is ChunkResult:
        assert fields(tables[1]) == expected(ImageResult)


def fields(table: str) -> dict[str, str]:
    """Return the names in a table with the column of defaults, if there is one."""
    head, _, *rows = [row.strip("| ").split(" | ") for row in table.splitlines()]
    place = head.index("Default") if "Default" in head else None
    return {
        name: row[place] if place is not None else ""
        for row in rows
        for name in re.findall(r"`(\w+)`", row[0])
    }


def expected(shape: type[msgspec.Struct], *, has_defaults: bool = True) -> dict[str, str]:
    # Whoever sends or reads from elsewhere says the version.
    found = {
        field.name: "required" if field.required or field.name == "v" else written(field)
        for field in msgspec.structs.fields(shape)
    }
    return found if has_defaults else dict.fromkeys(found, "")


def written(field: msgspec.structs.FieldInfo) -> str:
    if field.default_factory is not msgspec.NODEFAULT:
        return msgspec.json.encode(field.default_factory()).decode()
    if isinstance(field.default, msgspec.Struct):
        return "{}"
    return msgspec.json.encode(field.default).decode()
