"""The images and docker-compose.yml, where a container engine answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest
from conftest import ROOT

from ops.stack.engine import Engine, EngineError, find
from ops.stack.project import TAG

SCRIPT = str(ROOT / "ops" / "containers")
PRODUCER = f"wanwu-tagger-producer:{TAG}"
NO_ENGINE = 3


@pytest.fixture(scope="module")
def engine() -> Engine:
    try:
        found = find()
    except EngineError as e:
        pytest.skip(str(e))
    try:
        for name in ("producer", "worker", "flower", "api", "exporter"):
            found.ask("image", "inspect", f"wanwu-tagger-{name}:{TAG}")
    except EngineError:
        pytest.skip("images were not built here before, which takes minutes: run ops/containers")
    return found


@pytest.fixture
def volume(engine: Engine) -> Iterator[str]:
    name = f"wanwu-test-{uuid.uuid4().hex[:8]}"
    engine.ask("volume", "create", name)
    yield name
    engine.ask("volume", "rm", "--force", name)


@pytest.mark.containers
@pytest.mark.timeout(3000)
def test_the_stack_runs_from_a_clean_checkout_and_outlives_a_killed_worker(engine: Engine) -> None:
    done = subprocess.run([SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for fact in ("24 records", "2,000 images have one record each", "nothing left"):
        assert fact in done.stdout


@pytest.mark.containers
@pytest.mark.parametrize("owner", ["1234:4321", "10001:10001"])
def test_records_belong_to_who_owns_the_directory(engine: Engine, volume: str, owner: str) -> None:
    run = ("run", "--rm", "--volume", f"{volume}:/out", "--user", "0:0", "--entrypoint", "sh")
    # An empty volume would be given the owner that the image's directory has, again.
    engine.ask(*run, PRODUCER, "-c", f"touch /out/a && chown {owner} /out")
    rights = ("--cap-drop", "ALL", "--security-opt", "no-new-privileges")
    added = ("--cap-add", "CHOWN", "--cap-add", "SETGID", "--cap-add", "SETUID")
    answer = engine.ask(*run, *rights, *added, PRODUCER, "-c", _AS_COMPOSE)
    assert answer == f"{owner} 0000000000000000"


# The entry point, with a program in the producer's place that says who it is and what it may do.
_AS_COMPOSE = """
mkdir /tmp/bin
cat > /tmp/bin/producer <<'END'
#!/bin/sh
echo "$(id -u):$(id -g) $(sed -n 's/^CapEff:.//p' /proc/self/status)"
END
chmod -R a+rx /tmp/bin
PATH=/tmp/bin:$PATH exec docker-entrypoint.sh
"""


@pytest.mark.containers
@pytest.mark.timeout(600)
def test_a_run_that_is_interrupted_leaves_nothing(engine: Engine) -> None:
    argv = [SCRIPT, "--no-build"]
    run = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stderr is not None
    for line in run.stderr:
        if "docker compose up" in line:
            break
    run.send_signal(signal.SIGTERM)
    out, _ = run.communicate(timeout=500)
    assert run.returncode == 128 + signal.SIGINT
    assert "nothing left" in out


def test_without_an_engine_it_says_so() -> None:
    env = os.environ | {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable}
    env |= {"DOCKER_HOST": "unix:///nowhere.sock", "CONTAINER_HOST": "unix:///nowhere.sock"}
    done = subprocess.run([SCRIPT], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == NO_ENGINE
    assert "no container engine" in done.stderr
    assert not done.stdout
