"""producer.monitoring.doctor: what stands in the way, and what to do about it."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from conftest import Fleet, run
from server import Server

from producer.monitoring.doctor import examine
from producer.monitoring.finding import Finding
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings
from worker.contract.stores.dead_letters import DeadLetters


def bad(*found: Finding) -> list[str]:
    return [f"{one.what} -> {one.todo}" for one in found if one.state == "fail"]


def test_without_a_redis_it_says_how_to_get_one() -> None:
    done = run("producer", "doctor", broker_url="redis://:geheim@127.0.0.1:1/0")
    assert done.returncode == 1
    assert "fail  cannot reach Redis at redis://:***@127.0.0.1:1/0" in done.stdout
    assert "-> start one" in done.stdout
    assert "geheim" not in done.stdout + done.stderr


def test_without_a_worker_it_says_how_to_start_one(
    server: EmbeddedRedis, client: redis.Redis
) -> None:
    DeadLetters(client).add_unreadable(b"?", "no message")
    found = list(examine(Settings(broker_url=SecretUrl(server.url)), []))
    (worst,) = bad(*found)
    assert worst.startswith("no worker is online at redis://")
    # The URL was not taken from the environment, and holds a password.
    todo = "export WANWU_BROKER_URL=... (the same URL), then worker start --allow DIR"
    assert worst.endswith(f"-> {todo}")
    assert any("there are 1 dead letters" in one.what for one in found)


def test_a_redis_that_may_drop_work_is_bad(server: EmbeddedRedis, client: redis.Redis) -> None:
    client.config_set("maxmemory", "100mb")
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert "allkeys-lru" in bad(*examine(Settings(broker_url=SecretUrl(server.url)), []))[0]
    finally:
        client.config_set("maxmemory", "0")
        client.config_set("maxmemory-policy", "noeviction")


def test_a_full_redis_is_told_as_such(tmp_path: Path) -> None:
    with Server(tmp_path) as full:
        full.refuse("OOM")
        found = list(examine(Settings(broker_url=SecretUrl(full.url)), [str(tmp_path)]))
        (worst,) = bad(*found)
        assert worst.startswith("Redis answers, but refuses work: OOM")
        assert any(one.what.startswith("workers cannot be asked") for one in found)
        assert found[-1].what.startswith(f"{tmp_path}: it is there")


def test_the_redis_of_the_results_is_asked_too(tmp_path: Path, server: EmbeddedRedis) -> None:
    with Server(tmp_path) as apart:
        settings = Settings(broker_url=SecretUrl(server.url), result_url=SecretUrl(apart.url))
        assert not any("results" in argv for argv in bad(*examine(settings, [])))
        apart.refuse("READONLY")
        (worst,) = (argv for argv in bad(*examine(settings, [])) if "results" in argv)
        assert worst.startswith("Redis of the results answers, but refuses work: READONLY")
        assert "WANWU_RESULT_URL" in worst


@pytest.mark.integration
def test_it_knows_what_workers_may_read(
    server: EmbeddedRedis, client: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    seen, unseen = tmp_path / "seen", tmp_path / "unseen"
    seen.mkdir()
    unseen.mkdir()
    fleet.start(server.url, "--allow", str(seen), "--images", "s3://photos/2026/")
    places = [str(seen), str(unseen), str(tmp_path / "none"), "s3://photos/2026/", "s3://other/"]
    found = list(examine(Settings(broker_url=SecretUrl(server.url)), places))
    by_place = {one.what.split(": ")[0]: one.state for one in found[-5:]}
    assert [by_place[place] for place in places] == ["ok", "fail", "fail", "ok", "fail"]
    assert any(one.what.endswith(" on cpu, fp32") for one in found)
    fine = run("producer", "doctor", str(seen), broker_url=server.url)
    assert fine.returncode == 0, fine.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_one_line_for_a_start_file(shell: str) -> None:
    done = run("producer", "completion", shell)
    assert done.stdout.count("\n") == 1
    assert f"{shell}_source" in done.stdout
