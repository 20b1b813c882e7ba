"""`producer submit --embedded`: nothing else is needed, and nothing stays."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from conftest import PATIENCE_S, ROOT, environment, run
from images import fill

from producer.jobs.chunks import SMALLEST_CHUNK

pytestmark = pytest.mark.integration


def test_one_command_tags_a_directory(tmp_path: Path) -> None:
    paths = fill(tmp_path / "in", 20)
    out = tmp_path / "tags.jsonl"
    argv = ("producer", "submit", str(tmp_path / "in"), "--embedded", "--out", str(out))
    done = run(*argv, model="")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    found = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert sorted(r["path"] for r in found) == sorted(str(path) for path in paths)
    assert done.stderr.count("the bundled model knows") == 1
    assert "20 images" in done.stderr


def test_flower_runs_beside_it_and_ends_with_it(tmp_path: Path) -> None:
    paths = fill(tmp_path / "in", SMALLEST_CHUNK)
    command = subprocess.Popen(
        [sys.executable, "-m", "producer.cli", "submit", "-", "--embedded", "--flower"],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with command:
        assert command.stdin
        assert command.stdout
        assert command.stderr
        # The list stays open, so the command runs until we have looked.
        command.stdin.write(b"".join(os.fsencode(path) + b"\0" for path in paths))
        command.stdin.flush()
        reply = ""
        while not (
            found := re.search(r"(http://\S+)/throughput, user (\S+), password (\S+)", reply)
        ):
            line = command.stderr.readline()
            assert line, reply
            reply += line.decode()
        assert json.loads(command.stdout.readline())["path"] in map(str, paths)
        base, user, password = found.groups()
        request = urllib.request.Request(f"{base}/api/throughput")
        word = base64.b64encode(f"{user}:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {word}")
        ends_s = time.monotonic() + PATIENCE_S
        while True:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                view = json.load(answer)
            seen = sum(one["images"] for one in view["workers"])
            if seen >= len(paths) or time.monotonic() > ends_s:
                break
            # What was done before Flower listened is not seen: there is more to do.
            command.stdin.write(b"".join(os.fsencode(path) + b"\0" for path in paths))
            command.stdin.flush()
            time.sleep(1.0)
        assert seen >= len(paths)
        assert len(view["workers"]) == 1
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{base}/throughput", timeout=PATIENCE_S)
        command.stdin.close()
        assert command.wait(PATIENCE_S) == 0
    with pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.urlopen(base, timeout=10)


def test_flower_is_for_embedded_alone(tmp_path: Path) -> None:
    (path,) = fill(tmp_path / "in", 1)
    done = run("producer", "submit", str(path), "--flower")
    assert done.returncode == 2
    assert "--flower needs --embedded" in done.stderr


def test_without_a_file_the_records_go_to_standard_output(tmp_path: Path) -> None:
    fill(tmp_path / "in", 3)
    done = run("producer", "submit", str(tmp_path / "in"), "--embedded")
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 3


def test_a_list_on_standard_input_is_read(tmp_path: Path) -> None:
    paths = fill(tmp_path / "in", 3)
    done = subprocess.run(
        [sys.executable, "-m", "producer.cli", "submit", "-", "--embedded"],
        input=b"\0".join(os.fsencode(path) for path in paths),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        check=True,
    )
    assert {json.loads(line)["path"] for line in done.stdout.splitlines()} == {
        str(path) for path in paths
    }


def test_it_says_what_it_waits_for(tmp_path: Path) -> None:
    fill(tmp_path / "in", 1)
    done = run("producer", "submit", str(tmp_path / "in"), "--embedded")
    said = ["starting a private Redis", "starting a worker, which loads its model", "tagging with"]
    places = [done.stderr.index(argv) for argv in said]
    assert places == sorted(places)


def test_a_model_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    (path,) = fill(tmp_path / "in", 1)
    done = run("producer", "submit", str(path), "--embedded", "--model", str(tmp_path / "none"))
    assert done.returncode == 1
    reply = [line for line in done.stderr.splitlines() if not line.startswith("starting ")]
    assert len(reply) == 1, done.stderr


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So many images that nobody is done with them at once."""
    directory = tmp_path_factory.mktemp("many")
    fill(directory, 3000, size=(1200, 900))
    return directory


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["starting", "tagging"])
def test_an_interrupted_command_leaves_nothing_behind(
    tmp_path: Path, many: Path, wait_until: Callable[..., None], number: signal.Signals, moment: str
) -> None:
    temporary, out = tmp_path / "tmp", tmp_path / "tags.jsonl"
    temporary.mkdir()
    argv = ["submit", str(many), "--embedded", "--out", str(out)]
    with subprocess.Popen(
        [sys.executable, "-m", "producer.cli", *argv],
        cwd=ROOT,
        env=environment() | {"TMPDIR": str(temporary)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as producer:
        itself = psutil.Process(producer.pid)
        wait_until(lambda: len(itself.children(recursive=True)) >= 2)
        if moment == "tagging":
            wait_until(lambda: out.exists() and out.stat().st_size > 0)
        family = itself.children(recursive=True)
        # As a terminal does it: the whole foreground group hears Ctrl-C.
        os.killpg(producer.pid, number)
        _, said = producer.communicate(timeout=PATIENCE_S)
    assert producer.returncode == 130
    # A child that was just being started is ended by the kernel, a moment after its parent.
    wait_until(lambda: not any(child.is_running() for child in family))
    assert list(temporary.iterdir()) == []
    assert "Traceback" not in said
    assert "interrupted" in said
    assert (moment == "starting") or str(out) in said
