"""What people type for a URL of Redis -> one sentence, and no part of its password, anywhere."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PATIENCE_S, ROOT, environment
from forks import Forks
from odd_urls import ODD_URLS, SECRETS

PROGRAMS = (
    ("producer", "status"),
    ("producer", "doctor"),
    ("producer", "submit", "ops/examples"),
    ("producer", "exporter", "--port", "9"),
    ("producer", "serve", "--port", "9"),
    ("worker", "start"),
)


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    directory = tmp_path_factory.mktemp("odd") / "forks"
    with Forks(directory, environment() | {"PYTHONPATH": str(ROOT)}) as running:
        yield running


def faults(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if line.startswith(("Error", "error", "fail"))]
    seen = [secret for secret in SECRETS if secret in text]
    return seen + ["a traceback"] * ("Traceback" in text) + ["no one sentence"] * (len(lines) != 1)


@pytest.mark.parametrize("argv", PROGRAMS, ids=" ".join)
def test_every_program_answers_an_odd_url_with_one_sentence(
    argv: tuple[str, ...], forks: Forks
) -> None:
    found = {}
    for url in ODD_URLS:
        done = forks.run(argv, cwd=ROOT, environment=environment(broker_url=url))
        if wrong := faults(done.out + done.err):
            found[url] = wrong, (done.out + done.err)[-300:]
        elif done.code in {0, 3}:
            found[url] = [f"exit code {done.code}"], ""
    assert not found


@pytest.mark.parametrize("place", ["BROKER_URL", "--broker"])
@pytest.mark.parametrize("url", [ODD_URLS[0], ODD_URLS[39]])
def test_flower_does_so_too(url: str, place: str) -> None:
    command = [sys.executable, "-m", "celery", *([f"--broker={url}"] if place[0] == "-" else [])]
    done = subprocess.run(
        [*command, "flower", f"--conf={ROOT / 'ops' / 'flowerconfig.py'}", "--port=0"],
        env=environment() | {"BROKER_URL": url, "PYTHONPATH": str(ROOT)},
        cwd=Path("/"),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode != 0
    assert faults(done.stdout + done.stderr) == []
