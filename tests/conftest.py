"""Real servers, real worker processes, real images, shared by all tests."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis

from worker.contract.broker import connect
from worker.contract.embedded import EmbeddedRedis
from worker.contract.processes import start_child, stop_child

# Sentences are compared as they stand in the source.
os.environ["LC_ALL"] = "C.UTF-8"

ROOT = Path(__file__).resolve().parent.parent
ONLINE_TIMEOUT_S = 90
# A worker of a hundred images a second on whatever machine: what must be met at work, is.
STEADY = (str(ROOT / "ops" / "bench" / "simulated.py"), "40")


# Two processes share the files: those that take minutes are begun first.
LONGEST = (
    "test_containers",
    "test_full_size",
    "test_faults",
    "test_bench",
    "test_end_to_end",
    "test_readme",
    "test_real_models",
    "test_flower",
    "test_ops_bench",
    "test_embeddings",
    "test_remote",
    "test_door",
    "test_metrics",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@contextmanager
def _locked(file: Path, how: int) -> Iterator[None]:
    with file.open("rb") as lock:
        fcntl.flock(lock, how)
        yield


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let a test that is marked `alone` have the machine, however many processes run tests."""
    turnstile, room = ROOT / "pyproject.toml", Path(__file__)  # Any two files serve as locks.
    alone = item.get_closest_marker("alone") is not None
    with ExitStack() as stack:
        # Whoever waits for an empty room holds the turnstile, so that nobody slips in meanwhile.
        with _locked(turnstile, fcntl.LOCK_EX):
            stack.enter_context(_locked(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH))
        return (yield)


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as running:
        yield running


@pytest.fixture
def client(server: EmbeddedRedis) -> Iterator[redis.Redis]:
    """An empty Redis."""
    with connect(server.url) as connected:
        connected.flushall()
        yield connected


def environment(**settings: str) -> dict[str, str]:
    """Return this process's environment without its own WANWU settings, and with those given.

    Workers may read everywhere, unless it says otherwise.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("WANWU_")}
    settings = {"image_roots": "/"} | settings
    return inherited | {f"WANWU_{name.upper()}": value for name, value in settings.items()}


def run(
    *words: str, timeout_s: float = 120, cwd: Path = ROOT, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run `producer` or `worker` as a user would, in a process of its own."""
    module, *rest = words
    return subprocess.run(
        [sys.executable, "-m", f"{module}.cli", *rest],
        cwd=cwd,
        env=environment(**settings) | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


@dataclass
class Worker:
    """A worker process with its log."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, words: str, timeout_s: float = ONLINE_TIMEOUT_S) -> None:
        """Wait until the log says so."""
        deadline_s = time.monotonic() + timeout_s
        while words not in self.text:
            if self.process.poll() is not None or time.monotonic() > deadline_s:
                pytest.fail(f"the worker never said {words!r}:\n{self.text}")
            time.sleep(0.05)

    def stop(self, grace_s: float = 30) -> int:
        return stop_child(self.process, grace_s)


@dataclass
class Crew:
    """Starts workers and stops them all at the end."""

    directory: Path
    stack: ExitStack
    workers: list[Worker] = field(default_factory=list)

    def start(
        self,
        url: str,
        *options: str,
        ready: bool = True,
        program: tuple[str, ...] = ("-m", "worker.cli"),
        variables: dict[str, str] | None = None,
        **settings: str,
    ) -> Worker:
        log = self.directory / f"worker-{len(self.workers)}.log"
        with log.open("wb") as sink:
            process = start_child(
                [sys.executable, *program, "start", *options],
                cwd=ROOT,
                env=environment(broker_url=url, **settings)
                | {"PYTHONPATH": str(ROOT)}
                | (variables or {}),
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        worker = Worker(process, log)
        self.workers.append(worker)
        self.stack.callback(worker.stop)
        if ready:
            worker.wait_for("worker.ready")
        return worker


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    with ExitStack() as stack:
        yield Crew(tmp_path_factory.mktemp("workers"), stack)


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    def wait(condition: Callable[[], bool], timeout_s: float = 30) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline_s:
                pytest.fail("it never came true")
            time.sleep(0.02)

    return wait
