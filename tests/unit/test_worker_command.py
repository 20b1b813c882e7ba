"""producer.console.worker_command: the command that starts a worker, as a user can type it."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from conftest import Fleet, run
from images import fill

from producer.backend.workers import WorkerInfo
from producer.console.worker_command import start_worker, unread, way_out
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("WANWU_BROKER_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "图.jpg").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("argv", "options"),
    [
        (["a b"], "--allow '{here}/a b'"),
        (["a b/图.jpg"], "--allow '{here}/a b'"),
        (["a b/*.jpg", "a b"], "--allow '{here}/a b'"),
        (["."], "--allow {here}"),
        (["-"], "--allow DIR"),
        ([], "--allow DIR"),
        (["s3://photos/2026/"], "--allow s3://photos/2026/"),
        (["https://h/p/*.tar", "https://h/p/x.jpg"], "--allow https://h/p/"),
    ],
)
def test_the_directories_that_were_asked_for_are_named(
    here: Path, argv: list[str], options: str
) -> None:
    assert start_worker(Settings(), argv) == f"worker start {options.format(here=here)}"


def test_bytes_need_no_directory() -> None:
    assert start_worker(Settings(), ["."], as_blobs=True) == "worker start"


def test_a_prefix_of_the_program_s_own_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert start_worker(Settings(prefix="a"), ["-"]) == "WANWU_PREFIX=a: worker start --allow DIR"
    monkeypatch.setenv("WANWU_PREFIX", "a")
    assert start_worker(Settings(prefix="a"), ["-"]) == "worker start --allow DIR"


def test_a_broker_of_the_command_line_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = "redis://127.0.0.1:7/3"
    there = Settings(broker_url=SecretUrl(url))
    assert start_worker(there, ["-"]) == f"WANWU_BROKER_URL={url} worker start --allow DIR"
    monkeypatch.setenv("WANWU_BROKER_URL", url)
    assert start_worker(there, ["-"]) == "worker start --allow DIR"
    secret = start_worker(Settings(broker_url=SecretUrl("redis://:geheim@127.0.0.1:7/3")), ["-"])
    assert secret.startswith("export WANWU_BROKER_URL=...")
    assert "geheim" not in secret


def test_what_no_worker_may_read_is_known_if_all_tell(here: Path) -> None:
    blind = WorkerInfo(version="1")
    seeing = WorkerInfo(version="1", image_roots=(str(here),), image_urls=("s3://b/",))
    argv = ["a b", "/", "s3://b/c/", "https://h/", "-"]
    assert unread([blind], argv) == argv[:-1]
    assert unread([blind, seeing], argv) == ["/", "https://h/"]
    assert unread([blind, WorkerInfo()], argv) == []


def test_bytes_are_a_way_out_for_files_and_not_for_urls(here: Path) -> None:
    assert way_out(Settings(), ["."]).startswith(f"worker start --allow {here} (or submit with ")
    assert way_out(Settings(), ["http://nas/a.jpg"]) == "worker start --allow http://nas/"


@pytest.mark.integration
def test_a_submit_of_what_no_worker_may_read_says_so_before_it_sends(
    server: EmbeddedRedis, client: redis.Redis, fleet: Fleet, here: Path
) -> None:
    (seen, unseen) = (here / "seen", here / "unseen")
    for directory in (seen, unseen):
        fill(directory, 1)
    fleet.start(server.url, "--allow", str(seen))
    done = run("producer", "submit", str(unseen), broker_url=server.url)
    assert done.returncode == 3
    assert f"note: no online worker may read {unseen}" in done.stderr
    assert f"worker start --allow {unseen} (or submit with --blobs)" in done.stderr
    for argv in ([str(seen)], [str(unseen), "--blobs"]):
        done = run("producer", "submit", *argv, broker_url=server.url)
        assert done.returncode == 0, done.stderr
        assert "no worker that is online" not in done.stderr
