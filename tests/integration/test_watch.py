"""producer.sources.watch: what arrives in a directory is tagged, once it is whole, and once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE_S, ROOT, Fleet, environment, run
from images import encoded, picture

from producer.sources.watch import NewFiles, watch
from worker.contract.local.redis_server import EmbeddedRedis

Until = Callable[[Callable[[], bool]], None]


class Time:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_an_image_has_arrived_when_it_has_stopped_growing(tmp_path: Path) -> None:
    clock, photo = Time(), tmp_path / "a.jpg"
    arrivals = NewFiles(tmp_path, 2.0, clock)
    photo.write_bytes(b"x")
    arrivals.note(str(photo))
    assert arrivals.settled() == []
    clock.now_s = 1.5
    photo.write_bytes(b"xx")
    assert arrivals.settled() == []
    clock.now_s = 3.4
    assert arrivals.settled() == []
    clock.now_s = 3.6
    assert arrivals.settled() == [str(photo)]
    assert arrivals.settled() == []


def test_what_is_no_image_hidden_or_gone_has_not_arrived(tmp_path: Path) -> None:
    arrivals = NewFiles(tmp_path, 0.0, Time())
    for name in ("notes.txt", ".hidden.jpg", ".tmp/a.jpg", "gone.jpg"):
        arrivals.note(str(tmp_path / name))
    assert arrivals.settled() == []


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux")
def test_a_name_that_is_not_utf8_stops_nothing(tmp_path: Path) -> None:
    looks = watch(tmp_path, 0.5)
    assert next(looks) == []
    odd = tmp_path / os.fsdecode(b"new\xfe.jpg")
    for number in range(3):
        odd.write_bytes(b"x" * (number + 1))
        (tmp_path / f"{number}.jpg").write_bytes(b"x")
    found: list[str] = []
    while len(found) < 4:
        found += next(looks)
    assert sorted(found) == sorted(
        [str(odd), *(str(tmp_path / f"{number}.jpg") for number in range(3))]
    )


def lines(out: Path) -> list[dict[str, Any]]:
    if not out.exists():
        return []
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def directories_watched(pid: int) -> int:
    """As the kernel has it: a directory that is made later is watched a moment later."""
    files = Path(f"/proc/{pid}/fdinfo").iterdir()
    return sum(file.read_text(encoding="ascii").count("inotify wd") for file in files)


@pytest.mark.integration
def test_a_directory_is_watched_and_nothing_is_tagged_twice(
    server: EmbeddedRedis, fleet: Fleet, tmp_path: Path, wait_until: Until
) -> None:
    fleet.start(server.url)
    inbox, out = tmp_path / "inbox", tmp_path / "tags.jsonl"
    inbox.mkdir()
    (inbox / "before.jpg").write_bytes(encoded(picture(0)))

    def start() -> subprocess.Popen[bytes]:
        argv = ["watch", str(inbox), "--out", str(out), "--settle-seconds", "1.0", "--label", "猫"]
        with (tmp_path / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "producer.cli", *argv],
                env=environment(broker_url=server.url),
                cwd=ROOT,
                stderr=log,
            )

    def stop(child: subprocess.Popen[bytes]) -> None:
        child.send_signal(signal.SIGINT)
        assert child.wait(PATIENCE_S) == 130

    def names() -> list[str]:
        return [Path(line["path"]).name for line in lines(out)]

    child = start()
    wait_until(lambda: names() == ["before.jpg"])
    wait_until(lambda: "watching" in (tmp_path / "log").read_text())
    before = directories_watched(child.pid)
    (inbox / "deep").mkdir()
    wait_until(lambda: directories_watched(child.pid) > before)
    # Slowly, as a camera's card is copied: it is one image, not two halves.
    data = encoded(picture(1))
    with (inbox / "deep" / "slow.jpg").open("wb") as file:
        for part in (data[:100], data[100:400], data[400:]):
            file.write(part)
            file.flush()
            time.sleep(0.1)
    wait_until(lambda: names() == ["before.jpg", "slow.jpg"])
    (inbox / "before.jpg").write_bytes(encoded(picture(7)))
    wait_until(lambda: names() == ["slow.jpg", "before.jpg"])
    stop(child)
    (inbox / "meanwhile.jpg").write_bytes(encoded(picture(2)))
    child = start()
    wait_until(lambda: len(lines(out)) == 3)
    stop(child)
    assert sorted(names()) == ["before.jpg", "meanwhile.jpg", "slow.jpg"]
    assert {line["status"] for line in lines(out)} == {"ok"}


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1"])
def test_a_time_that_is_none_is_wrong_usage(tmp_path: Path, seconds: str) -> None:
    argv = ("watch", str(tmp_path), "--format", "xmp", "--settle-seconds", seconds)
    done = run("producer", *argv)
    assert done.returncode == 2
    assert "--settle-seconds" in done.stderr


def test_a_page_cannot_grow_as_images_arrive(tmp_path: Path) -> None:
    done = run("producer", "watch", str(tmp_path), "--out", str(tmp_path / "x.html"))
    assert done.returncode == 2
    assert "as images arrive" in done.stderr
