"""producer -> a separate Redis server -> two worker processes -> producer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE_S, ROOT, Fleet, environment, run
from images import encoded, fill, huge_png, picture

from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.queue.fair import FairQueue
from worker.contract.redis.connections import connect

pytestmark = pytest.mark.integration

FIELDS = [
    *("path", "status", "tags", "error", "timing"),
    *("batch_size", "worker", "device", "model", "labels", "file"),
]
TIMES = ["queue_ms", "read_ms", "decode_ms", "batch_wait_ms", "infer_ms", "total_ms"]


@pytest.fixture(scope="module")
def queue() -> Iterator[str]:
    """A Redis server apart from all others."""
    with EmbeddedRedis() as server:
        yield server.url


@pytest.fixture(scope="module")
def two_workers(queue: str, fleet: Fleet) -> str:
    """The queue's URL, once two workers listen on it."""
    first, second = (fleet.start(queue, ready=False, fresh=True) for _ in range(2))
    first.wait_for("worker.ready")
    second.wait_for("worker.ready")
    return queue


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return fill(tmp_path_factory.mktemp("图库"), 2000)


def records(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def left_in(url: str, pattern: str) -> list[Any]:
    with connect(url) as client:
        return list(client.keys(pattern))


@pytest.fixture(scope="module", params=[[], ["--blobs"]], ids=["paths", "blobs"])
def found(
    request: Any, two_workers: str, images: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """What two workers say of all images."""
    out = tmp_path_factory.mktemp("out") / "tags.jsonl"
    argv = [str(images[0].parent.parent), *request.param, "--out", str(out)]
    done = run("producer", "submit", *argv, broker_url=two_workers)
    assert done.returncode == 0, done.stderr
    return records(out)


def test_two_workers_share_a_job_and_each_image_comes_back_once(
    two_workers: str, images: list[Path], found: list[dict[str, Any]]
) -> None:
    assert Counter(r["path"] for r in found) == Counter(str(path) for path in images)
    assert {r["status"] for r in found} == {"ok"}
    shares = Counter(r["worker"] for r in found)
    assert len(shares) == 2
    assert min(shares.values()) > len(images) / 10
    assert left_in(two_workers, "wanwu:blob:*") == []


def test_under_backlog_batches_fill(found: list[dict[str, Any]]) -> None:
    # An image in a batch of 4 counts for a quarter of a batch. How full they are when each thread
    # has a core is shown in test_batch, by a clock of its own.
    sizes = [r["batch_size"] for r in found]
    assert len(sizes) / sum(1 / size for size in sizes) >= 3
    assert max(sizes) == 4


def test_a_record_has_its_fields_in_order_and_all_times(
    two_workers: str, images: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "tags.jsonl"
    run("producer", "submit", str(images[0]), "--out", str(out), broker_url=two_workers)
    (record,) = records(out)
    assert list(record) == FIELDS
    assert list(record["timing"]) == TIMES
    assert all(record["timing"][name] >= 0 for name in TIMES)
    assert record["error"] is None
    assert record["device"] == "cpu"
    name, _, digest = record["model"].partition("@")
    assert (name, len(digest)) == ("wanwu-drawings", 12)
    scores = [tag["score"] for tag in record["tags"]]
    assert len(scores) == 5
    assert scores == sorted(scores, reverse=True)


def test_labels_templates_and_limits_are_the_users(
    two_workers: str, images: list[Path], tmp_path: Path
) -> None:
    labels, out = tmp_path / "labels.txt", tmp_path / "tags.jsonl"
    labels.write_text("\ufeff# 两个\n猫\n狗\n\n苹果\n", encoding="utf-8")
    argv = ["--labels", str(labels), "--top-k", "2", "--template", "{}的图"]
    run("producer", "submit", str(images[0]), *argv, "--out", str(out), broker_url=two_workers)
    (record,) = records(out)
    assert len(record["tags"]) == 2
    assert {tag["label"] for tag in record["tags"]} <= {"猫", "狗", "苹果"}
    done = run(
        *("producer", "submit", str(images[0]), "--label", "猫", "--label", "狗"),
        *("--threshold", "1", "--out", str(out), "--overwrite"),
        broker_url=two_workers,
    )
    assert done.returncode == 0
    assert records(out)[0]["tags"] == []


def test_a_job_left_alone_is_fetched_from_another_shell(
    two_workers: str, images: list[Path], tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    directory = str(images[0].parent)
    sent = run("producer", "submit", directory, "--no-wait", broker_url=two_workers)
    assert sent.returncode == 0, sent.stderr
    job = sent.stdout.strip()

    def finished() -> bool:
        reply = run("producer", "status", job, broker_url=two_workers)
        assert reply.returncode == 0, reply.stderr
        return "100" in reply.stdout

    wait_until(finished)
    out = tmp_path / "tags.jsonl"
    fetched = run("producer", "results", job, "--out", str(out), broker_url=two_workers)
    assert fetched.returncode == 0, fetched.stderr
    assert {r["path"] for r in records(out)} == {str(p) for p in images[:100]}
    again = run("producer", "results", job, broker_url=two_workers)
    assert len(again.stdout.splitlines()) == 100


def hostile(directory: Path) -> dict[str, str | None]:
    """Fill a directory with trouble; return name -> expected code, None where tags are due."""
    good = encoded(picture(1, (640, 480)))
    (directory / "text.jpg").write_text("not a picture at all\n" * 50)
    (directory / "empty.jpg").write_bytes(b"")
    (directory / "truncated.jpg").write_bytes(good[: len(good) // 2])
    (directory / "huge.png").write_bytes(huge_png(20_000, 20_000))
    (directory / "dangling.jpg").symlink_to(directory / "nowhere.jpg")
    (directory / "itself.jpg").symlink_to(directory / "itself.jpg")
    (directory / "断行\n的猫.jpg").write_bytes(good)
    (directory / os.fsdecode(b"\xff\xfe.jpg")).write_bytes(good)
    os.mkfifo(directory / "pipe.jpg")
    deep = directory / "a/b/c"
    deep.mkdir(parents=True)
    (deep / "back").symlink_to(directory)
    (deep / "good.jpg").write_bytes(good)
    return {
        "text.jpg": "not_an_image",
        "empty.jpg": "empty_file",
        "truncated.jpg": "truncated",
        "huge.png": "too_many_pixels",
        "dangling.jpg": "not_found",
        "itself.jpg": "unreadable",
        "pipe.jpg": "not_a_file",
        "断行\n的猫.jpg": None,
        os.fsdecode(b"\xff\xfe.jpg"): None,
        "good.jpg": None,
    }


@pytest.mark.parametrize("mode", [[], ["--blobs"]], ids=["paths", "blobs"])
def test_bad_images_fail_alone_with_a_code_and_a_sentence(
    two_workers: str, images: list[Path], tmp_path: Path, mode: list[str]
) -> None:
    directory, out = tmp_path / "in", tmp_path / "tags.jsonl"
    directory.mkdir()
    expected = hostile(directory)
    argv = ("producer", "submit", str(directory), *mode, "--out", str(out))
    done = run(*argv, broker_url=two_workers)
    assert done.returncode == 3, done.stderr
    found = records(out)
    codes = {Path(r["path"]).name: r["error"] and r["error"]["code"] for r in found}
    assert codes == expected
    assert len(found) == len(expected)
    for record in found:
        assert bool(record["tags"]) != bool(record["error"])
        if record["error"]:
            assert record["error"]["message"] in done.stderr
    after = run("producer", "submit", str(images[0]), broker_url=two_workers)
    assert after.returncode == 0, after.stderr


def test_an_image_that_vanishes_after_submission_has_its_record(
    queue: str, fleet: Fleet, tmp_path: Path
) -> None:
    with EmbeddedRedis() as server:
        (path,) = fill(tmp_path / "in", 1)
        sent = run("producer", "submit", str(path), "--no-wait", broker_url=server.url)
        path.unlink()
        worker = fleet.start(server.url)
        job = sent.stdout.strip()
        fetched = run("producer", "results", job, "--wait", broker_url=server.url)
        worker.stop()
    assert fetched.returncode == 3
    assert json.loads(fetched.stdout)["error"]["code"] == "not_found"


def test_a_cancelled_job_runs_out_quickly_and_every_image_has_its_record(
    queue: str, fleet: Fleet, images: list[Path]
) -> None:
    with EmbeddedRedis() as server:
        directory = str(images[0].parent)
        sent = run("producer", "submit", directory, "--no-wait", broker_url=server.url)
        job = sent.stdout.strip()
        assert run("producer", "cancel", job, broker_url=server.url).returncode == 0
        worker = fleet.start(server.url)
        fetched = run("producer", "results", job, "--wait", broker_url=server.url)
        worker.stop()
    found = [json.loads(line) for line in fetched.stdout.splitlines()]
    assert [r["error"]["code"] for r in found] == ["cancelled"] * 100


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_warm_stop_finishes_what_is_in_flight_and_returns_the_rest(
    fleet: Fleet, tmp_path: Path, wait_until: Callable[..., None], number: signal.Signals
) -> None:
    paths = fill(tmp_path / "in", 400, size=(1600, 1200))
    out = tmp_path / "tags.jsonl"
    with EmbeddedRedis() as server, connect(server.url) as client:
        first = fleet.start(server.url, fresh=True)
        argv = ["submit", str(tmp_path / "in"), "--out", str(out)]
        with subprocess.Popen(
            [sys.executable, "-m", "producer.cli", *argv],
            cwd=ROOT,
            env=environment(broker_url=server.url),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as producer:
            wait_until(lambda: out.exists() and len(out.read_bytes().splitlines()) > 20)
            os.kill(first.process.pid, number)
            assert first.process.wait(PATIENCE_S) == 0, first.text
            waiting, unacked = FairQueue(KEYS).size(client), client.hlen(KEYS.unacked)
            done = len(client.keys(KEYS.result("*")))
            assert unacked == 0
            assert waiting + done == len(paths) / 8
            assert 0 < done < len(paths) / 8
            second = fleet.start(server.url, fresh=True)
            assert producer.wait(PATIENCE_S) == 0, producer.stderr and producer.stderr.read()
        second.stop()
    found = records(out)
    assert Counter(r["path"] for r in found) == Counter(str(path) for path in paths)
    assert len({r["worker"] for r in found}) == 2


def test_no_broker_is_one_clear_line(images: list[Path]) -> None:
    done = run("producer", "submit", str(images[0]), "--broker", "redis://:geheim@127.0.0.1:1/0")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "cannot reach Redis at redis://:***@127.0.0.1:1/0" in done.stderr


def test_no_worker_is_one_clear_line(server: EmbeddedRedis, images: list[Path]) -> None:
    done = run("producer", "submit", str(images[0]), broker_url=server.url)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "no worker" in done.stderr


def test_a_worker_without_its_model_says_so_and_ends(server: EmbeddedRedis, tmp_path: Path) -> None:
    done = run("worker", "start", "--model", str(tmp_path / "none"), broker_url=server.url)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_worker_refuses_a_model_that_was_changed(server: EmbeddedRedis, tmp_path: Path) -> None:
    model = tmp_path / "model"
    subprocess.run(["cp", "-r", str(ROOT / "worker/artifact/bundled"), str(model)], check=True)
    body = bytearray((model / "image.pt").read_bytes())
    body[len(body) // 2] ^= 1
    (model / "image.pt").write_bytes(body)
    done = run("worker", "start", "--model", str(model), broker_url=server.url)
    assert done.returncode == 1
    assert "image.pt" in done.stderr
    assert len(done.stderr.splitlines()) == 1
