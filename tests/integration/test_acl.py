"""The users of ops/docs/deployment.md: whole jobs with exactly their rights, and with one less."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import redis
from conftest import PATIENCE_S, ROOT, Fleet, environment, run, until
from flowers import flower_at
from images import fill
from server import free_port

from producer.monitoring.doctor import examine
from producer.monitoring.finding import Finding
from worker.contract.keys import Keys
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.local.subprocesses import start_child, stop_child
from worker.contract.redis.connections import connect
from worker.contract.redis.rights import ServerUnfitError
from worker.contract.redis.server_check import (
    check_server,
    producer_commands,
    result_commands,
    worker_commands,
    worker_result_commands,
)
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings

pytestmark = pytest.mark.integration

PAGE = ROOT / "ops" / "docs" / "deployment.md"
LINES = re.findall(r"^ACL SETUSER (\w+) on >PASSWORD (.+)$", PAGE.read_text("utf-8"), re.MULTILINE)
RIGHTS = {name: rules.split() for name, rules in LINES}
PREFIX = "wanwu:"
# What is seen of a server is no right to work: without it, an old one is found out later.
OPTIONAL = {"+info"}
# Each takes something away, or is implied by another one here.
NO_RIGHTS = {"resetchannels", "-@dangerous"}
CASES = [
    (name, rule)
    for name, rules in RIGHTS.items()
    for rule in rules
    if rule not in OPTIONAL | NO_RIGHTS
]


def set_user(client: Any, name: str, rules: list[str]) -> None:
    client.execute_command("ACL", "SETUSER", name, "reset", "on", ">pw", *rules)


@pytest.fixture
def urls(server: EmbeddedRedis, client: redis.Redis) -> Iterator[dict[str, str]]:
    for name, rules in RIGHTS.items():
        set_user(client, name, rules)
    place = server.url.partition("@")[2]
    yield {name: f"redis://{name}:pw@{place}" for name in RIGHTS}
    for name in RIGHTS:
        client.acl_deluser(name)


def test_whole_jobs_are_done_with_exactly_these_rights(
    urls: dict[str, str], client: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    fill(tmp_path / "photos", 12)
    photos, url = str(tmp_path / "photos"), urls["producer"]
    worker = fleet.start(urls["worker"], embedding_cache_size="50")
    with flower_at(urls["monitor"], tmp_path) as flower:
        for number, options in enumerate(([], ["--blobs", "--label", "猫", "--calibrated"])):
            out = tmp_path / f"{number}.jsonl"
            done = run("producer", "submit", photos, *options, "--out", str(out), broker_url=url)
            assert done.returncode == 0, done.stderr
            records = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
            assert [one["status"] for one in records] == ["ok"] * 12
        sent = run("producer", "submit", photos, "--no-wait", broker_url=url)
        job = sent.stdout.strip()
        for argv in (["results", job, "--wait"], ["status", job], ["status"], ["cancel", job]):
            done = run("producer", *argv, broker_url=url)
            assert done.returncode == 0, done.stderr
        assert run("producer", "doctor", photos, broker_url=url).returncode == 0
        assert sum(one["images"] for one in flower.succeeded(6)) == 36
        assert flower.get("/api/throughput")["workers"]
        assert 'id="tag"' in flower.get("/broker")
    port = free_port()
    argv = [sys.executable, "-m", "producer.cli", "exporter", "--port", str(port)]
    exporter = start_child(
        argv, env=environment(broker_url=urls["monitor"]), cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: _has_metrics(port))
    finally:
        stop_child(exporter, PATIENCE_S)
    assert worker.stop() == 0
    log: Any = client.acl_log()
    denied = [one for one in log if one["username"] in RIGHTS and not _is_expected(one["object"])]
    assert denied == []


def _has_metrics(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S) as answer:
            return b"wanwu_redis_up 1.0" in answer.read()
    except OSError:
        return False


def _is_expected(what: str) -> bool:
    """Whether a denial is of what is only looked at if the user may."""
    old_names = {"tag", "tag.processing", "unacked", "unacked_index"}
    return what in old_names or what.startswith(("config", "client"))


@pytest.mark.parametrize(("name", "rule"), CASES, ids=[" ".join(case) for case in CASES])
def test_without_one_of_them_a_sentence_names_it(
    urls: dict[str, str], client: redis.Redis, name: str, rule: str
) -> None:
    fewer = [one for one in RIGHTS[name] if one != rule]
    set_user(client, name, fewer)
    keys = Keys(PREFIX)
    commands = {
        "worker": (*worker_commands(keys), *worker_result_commands(keys)),
        "producer": (*producer_commands(keys), *result_commands(keys)),
    }
    checked = commands.get(name, commands["producer"])
    if name == "monitor" and rule in {"+@pubsub", "&wanwu:/0.celeryev/*"}:
        pytest.skip("Flower listens to events; the exporter, which is checked, does not")
    with connect(urls[name]) as one, pytest.raises(ServerUnfitError, match="lacks rights: "):
        check_server(one, "here", checked)


def test_the_right_to_wait_for_replicas_is_asked_for_where_it_is_used(
    urls: dict[str, str], client: redis.Redis
) -> None:
    set_user(client, "producer", [*RIGHTS["producer"], "-wait"])
    url, photos = urls["producer"], "ops/examples"
    assert run("producer", "status", broker_url=url).returncode == 0
    done = run("producer", "submit", photos, broker_url=url, redis_wait_replicas="1")
    assert done.returncode == 1
    assert "lacks rights: WAIT" in done.stderr
    assert client.keys("*job*") == []
    seen = run("producer", "doctor", broker_url=url, redis_wait_replicas="1")
    assert seen.returncode == 1
    assert "ACL SETUSER producer +wait (" in seen.stdout
    assert "upgrade" not in seen.stdout


def test_the_doctor_names_all_rights_that_are_missing(
    urls: dict[str, str], client: redis.Redis
) -> None:
    fewer = [one for one in RIGHTS["producer"] if one not in {"~wanwu:*", "+@scripting", "+time"}]
    set_user(client, "producer", fewer)
    (found,) = examine_bad(urls["producer"])
    assert "ACL SETUSER producer ~wanwu:* +" in found.todo
    assert "+evalsha" in found.todo
    assert "+time" in found.todo


def examine_bad(url: str) -> list[Finding]:
    found = examine(Settings(broker_url=SecretUrl(url)), [])
    return [one for one in found if one.state == "fail"]
