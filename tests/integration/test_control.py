"""Remote control and strange messages at a real worker: what is refused, and that work goes on."""

from __future__ import annotations

import base64
import gzip
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from celery import Celery
from conftest import PATIENCE_S, ROOT, Fleet, Worker, environment, run, until
from documents import DOCS, lines
from images import fill

from producer.backend.workers import online
from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.queue.app import make_app
from worker.contract.queue.envelope import MAX_MESSAGE_BYTES
from worker.contract.queue.transport import MAX_CONTROL_BYTES
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings
from worker.contract.stores.dead_letters import MAX_REASON_CHARS, DeadLetters

pytestmark = pytest.mark.integration

PIDBOX = f"{KEYS.prefix}/0.celery.pidbox"
REFUSED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("add_consumer", {"queue": "elsewhere"}),
    ("cancel_consumer", {"queue": "tag"}),
    ("pool_grow", {"n": 100}),
    ("pool_shrink", {"n": 100}),
    ("rate_limit", {"task_name": "worker.tag", "rate_limit": "1/h"}),
    ("time_limit", {"task_name": "worker.tag", "hard": 1, "soft": 1}),
    ("shutdown", {}),
    ("report", {}),
    ("hello", {"from_node": "x", "revoked": ["a"]}),
    ("ping", {"unknown": 1}),
    ("revoke", {"task_id": "x", "terminate": True}),
    ("revoke", {"task_id": [str(n) for n in range(1001)]}),
    ("x" * 100_000, {}),
)


@pytest.fixture(scope="module")
def worker(server: EmbeddedRedis, fleet: Fleet) -> Worker:
    return fleet.start(server.url)


@pytest.fixture
def app(server: EmbeddedRedis) -> Celery:
    return make_app(Settings(broker_url=SecretUrl(server.url)), stores_results=False)


def asked(app: Celery, command: str, arguments: dict[str, Any]) -> Any:
    """The reply of the one worker."""
    found = app.control.broadcast(command, arguments, reply=True, timeout=PATIENCE_S, limit=1)
    ((reply,),) = (one.values() for one in found)
    return reply


def works(server: EmbeddedRedis, worker: Worker, directory: Path) -> None:
    """Images are tagged, by this worker."""
    fill(directory / "photos", 8)
    done = run("producer", "submit", str(directory / "photos"), broker_url=server.url)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 8
    assert worker.process.poll() is None


def test_commands_outside_the_list_are_refused_with_a_reply_and_a_line(
    server: EmbeddedRedis, client: redis.Redis, worker: Worker, app: Celery, tmp_path: Path
) -> None:
    for command, arguments in REFUSED:
        reply = asked(app, command, arguments)
        assert reply["error"].startswith("refused: "), command[:20]
    assert worker.text.count("control.refused") == len(REFUSED)
    assert "x" * 1000 not in worker.text
    client.lpush("elsewhere", b"junk")
    client.lpush(f"{KEYS.prefix}elsewhere", b"junk")
    works(server, worker, tmp_path)
    assert client.llen("elsewhere") == client.llen(f"{KEYS.prefix}elsewhere") == 1


def test_what_flower_asks_for_is_answered_without_passwords(
    server: EmbeddedRedis, client: redis.Redis, worker: Worker, app: Celery
) -> None:
    inspect = app.control.inspect(timeout=PATIENCE_S, limit=1)
    for ask in ("stats", "active_queues", "registered", "scheduled", "active", "reserved"):
        ((reply,),) = (found.values() for found in [getattr(inspect, ask)()])
        assert "error" not in reply, ask
    for reply in (inspect.revoked(), inspect.conf(), inspect.conf(with_defaults=True)):
        password = server.url.partition("://:")[2].partition("@")[0]
        assert password
        assert password not in json.dumps(reply)
    assert asked(app, "enable_events", {}) == {"ok": "task events already enabled"}
    assert app.control.ping(timeout=PATIENCE_S, limit=1)
    assert "ok" in asked(app, "revoke", {"task_id": "nobody-0"})


def test_celerys_own_command_reaches_workers_as_documented(
    server: EmbeddedRedis, worker: Worker
) -> None:
    (line,) = (line for line in lines(DOCS / "operations.md") if "inspect ping" in line)
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(line)],
        cwd=ROOT,
        env=environment(broker_url=server.url) | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "pong" in done.stdout


def envelope(body: bytes, **changes: Any) -> bytes:
    """A message of remote control as kombu writes it."""
    message = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"clock": 1, "expires": 0},
        "properties": {
            "delivery_mode": 1,
            "delivery_info": {"exchange": "celery.pidbox", "routing_key": ""},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": "x",
        },
    }
    return json.dumps(message | changes).encode()


def bomb() -> bytes:
    return gzip.compress(b"[" + b" " * 200_000_000 + b"]")


BROKEN = {
    "no JSON": b"\xff\xfe{",
    "another shape": b"[[]]",
    "no command": envelope(b"[]"),
    "a number for a command": envelope(b'{"method": 7}'),
    "a pattern": envelope(b'{"method": "ping", "pattern": "(a+)+$", "matcher": "pcre"}'),
    "a reply elsewhere": envelope(
        b'{"method": "ping", "reply_to": {"exchange": "", "routing_key": "tag"}, "ticket": "t"}'
    ),
    "a clock that is none": envelope(b"{}", headers={"clock": "x"}),
    "compressed": envelope(b"x", headers={"compression": "application/x-gzip"}),
    "pickled": envelope(b"x", **{"content-type": "application/x-python-serialize"}),
    "another encoding": envelope(b"x", **{"content-encoding": "rot13"}),
    "much too large": b"x" * (MAX_CONTROL_BYTES + 1),
}


@pytest.mark.parametrize("raw", BROKEN.values(), ids=BROKEN)
def test_a_broken_message_of_remote_control_is_dropped_and_the_next_is_answered(
    server: EmbeddedRedis, client: redis.Redis, worker: Worker, app: Celery, raw: bytes
) -> None:
    assert client.publish(PIDBOX, raw) == 1
    assert len(online(app, PATIENCE_S, limit=1)) == 1
    assert client.llen(KEYS.queue) == 0
    assert "redis.lost" not in worker.text
    assert "Traceback" not in worker.text


def test_messages_are_looked_at_before_they_are_parsed_or_inflated(
    server: EmbeddedRedis, client: redis.Redis, worker: Worker, app: Celery, tmp_path: Path
) -> None:
    elsewhere = Settings(broker_url=SecretUrl(server.url), prefix="elsewhere:")
    make_app(elsewhere, stores_results=False).send_task("worker.tag", args=[{}], task_id="x-0")
    message = json.loads(str(client.lpop(elsewhere.keys.queue), "utf-8"))  # type: ignore[arg-type]
    named = message["headers"] | {"task": "x" * 30_000_000}
    process, log_before = psutil.Process(worker.process.pid), worker.log.stat().st_size
    before = process.memory_info().rss
    strange = {
        "inflated it has 200 MB": message
        | {"headers": message["headers"] | {"compression": "application/x-gzip"}}
        | {"body": base64.b64encode(bomb()).decode()},
        "its name has 30 MB": message | {"headers": named},
        "so has its id": message | {"headers": message["headers"] | {"id": "x" * 30_000_000}},
    }
    for one in strange.values():
        client.lpush(KEYS.queue, json.dumps(one))
    client.lpush(KEYS.queue, b"[" * (MAX_MESSAGE_BYTES + 1))
    dead = DeadLetters(client)
    until(lambda: dead.count() == len(strange) + 1)
    assert all(len(letter.reason) <= MAX_REASON_CHARS for letter in dead.list())
    assert worker.log.stat().st_size - log_before < 10_000
    works(server, worker, tmp_path)
    assert process.memory_info().rss - before < 400_000_000
