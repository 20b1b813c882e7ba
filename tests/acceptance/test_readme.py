"""The commands of the documents, run as they are written; tests/unit/test_documents.py parses all.

`worker bench` is run in test_bench, Python's examples in test_client, Docker in test_containers.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import PATIENCE_S, ROOT, Fleet, environment
from documents import DOCS, lines, name_of
from hub_models import save
from images import fill
from server import free_port

from producer.formats import records_of
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.local.subprocesses import start_child, stop_child

pytestmark = pytest.mark.integration

README, GUIDE, HTTP_API = ROOT / "README.md", DOCS / "guide.md", DOCS / "http-api.md"
IMAGES = 4
RECORDS = {".jsonl", ".csv", ".parquet", ".html"}
# Commands that are run by other tests, or need a store, a running server or a dead letter.
ELSEWHERE = ("--embedded", "s3://", "/srv/", "--server", "serve", "watch", "requeue")


def ours(page: Path, *parts: str) -> list[str]:
    """Return the commands of `producer` on a page that hold these parts."""
    return [line for line in lines(page) if "producer " in line and all(p in line for p in parts)]


def embedded() -> list[str]:
    """Return the commands that bring a Redis and a worker with the bundled model."""
    found = [line for page in (README, GUIDE) for line in ours(page, "--embedded")]
    return [line for line in dict.fromkeys(found) if "--model" not in line]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory as a reader has it, with images below ./images."""
    fill(tmp_path / "images", IMAGES - 1)
    (tmp_path / "images/图.png").write_bytes((tmp_path / "images/册0/图 0.jpg").read_bytes())
    (tmp_path / "photo.jpg").symlink_to("images/册0/图 0.jpg")
    (tmp_path / "labels.txt").write_text("猫 | 小猫 < 动物\n狗\n", encoding="utf-8")
    (tmp_path / "new.txt").write_text("猫\n狗\n", encoding="utf-8")
    return tmp_path


def shell(line: str, home: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a line as a reader would type it in that directory."""
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", line],
        cwd=home,
        env=environment(**settings) | {"PATH": path, "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def written(home: Path) -> dict[str, int]:
    """Return how many records each file holds that a command wrote."""
    files = [file for file in home.iterdir() if file.suffix in RECORDS]
    return {file.name: sum(1 for _ in records_of(file)) for file in files}


@pytest.mark.parametrize("line", embedded())
def test_the_commands_for_one_machine_run_as_written(line: str, home: Path) -> None:
    done = shell(line, home)
    assert done.returncode == 0, done.stderr
    counts = [*written(home).values()] or [done.stdout.count("\n")]
    assert counts == [1 if "find" in line else IMAGES]


def test_the_commands_for_a_model_of_your_own_run_as_written(home: Path) -> None:
    hub_id = "OFA-Sys/chinese-clip-vit-base-patch16"
    save(home / "downloaded", "chinese_clip")
    own = [line for line in lines(README) if "--model" in line]
    assert len(own) == 2
    assert set(own) <= set(lines(DOCS / "models.md"))
    for line in own:
        # No hub here: the same command with the directory of a model of the same family.
        done = shell(line.replace(hub_id, "downloaded"), home)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    records = [json.loads(line) for line in (home / "animals.jsonl").read_text().splitlines()]
    assert {record["model"].partition("@")[0] for record in records} == {"downloaded"}
    assert {tag["label"] for record in records for tag in record["tags"]} <= {"猫", "狗"}


@pytest.fixture(scope="module")
def queue(fleet: Fleet) -> Iterator[dict[str, str]]:
    """Settings that lead to a Redis with a worker."""
    with EmbeddedRedis() as server:
        port = str(free_port())
        fleet.start(server.url, monitor_port=port)
        yield {"broker_url": server.url, "monitor_port": port}
        for worker in fleet.workers:
            worker.stop()


@pytest.mark.parametrize("page", [README, GUIDE, DOCS / "labels.md"], ids=name_of)
def test_the_commands_for_a_lasting_queue_run_as_written(
    page: Path, home: Path, queue: dict[str, str]
) -> None:
    found = [*ours(page), *(line for line in lines(page) if "worker health" in line)]
    found = [line for line in found if not any(part in line for part in ELSEWHERE)]
    assert len(found) > 3
    job = ""
    for line in found:
        done = shell(line.replace("JOB", job), home, **queue)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        if "--no-wait" in line:
            job = done.stdout.strip()
            shell(f"producer results {job} --wait", home, **queue)
    assert {*written(home).values()} == {IMAGES}, written(home)
    assert not list(home.glob("images/**/*.xmp"))


@contextmanager
def served(line: str, home: Path, **settings: str) -> Iterator[str]:
    """Run the `producer serve` of a page at a free port; yield its URL."""
    port = free_port()
    child = start_child(
        ["bash", "-c", f"exec {line.replace('--port 8000', f'--port {port}')}"],
        cwd=home,
        env=environment(**settings) | {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
    )
    try:
        url, ends_s = f"localhost:{port}", time.monotonic() + PATIENCE_S
        while True:
            try:
                urllib.request.urlopen(f"http://{url}/health", timeout=PATIENCE_S).close()
                break
            except OSError:
                assert child.poll() is None
                assert time.monotonic() < ends_s
                time.sleep(0.1)
        yield url
    finally:
        stop_child(child, PATIENCE_S)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("page", [README, HTTP_API], ids=name_of)
def test_the_requests_over_http_are_answered(page: Path, home: Path, queue: dict[str, str]) -> None:
    (serve,) = ours(page, "producer serve")
    settings = queue | ({"api_key": "secret"} if page is HTTP_API else {})
    job = ""
    with served(serve, home, **settings) as url:
        requests = [line for line in lines(page) if line.startswith("curl ")]
        for line in [one for one in requests if "img.example" not in one]:
            typed = line.replace("localhost:8000", url).replace("JOB", job)
            done = shell(typed.replace("curl ", "curl -sS --fail-with-body "), home)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            if line.endswith("/jobs"):
                job = json.loads(done.stdout)["id"]
        for line in ours(page, "--server"):
            done = shell(line.replace("localhost:8000", url), home, api_key="secret")
            assert done.returncode == 0, f"{line}\n{done.stderr}"
            assert written(home) == {"uploaded.jsonl": IMAGES}
        with urllib.request.urlopen(f"http://{url}/openapi.json", timeout=PATIENCE_S) as answer:
            described = json.load(answer)["paths"]
    if page is HTTP_API:
        text = page.read_text(encoding="utf-8")
        explained = set(re.findall(r"^\| `([A-Z]+) (/[^`]*)`", text, re.MULTILINE))
        routes = {(verb.upper(), path) for path, verbs in described.items() for verb in verbs}
        # Pages for people are not among what is described for programs.
        assert explained - {("GET", "/")} == routes
