"""Real servers, real worker processes, real images, shared by all tests."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
import pytest
import redis
from loaded import parent

from producer.arguments import write_as_options
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.local.subprocesses import start_child, stop_child
from worker.contract.redis.connections import connect
from worker.contract.stops import STOPS

# Sentences are compared as they stand in the source.
os.environ["LC_ALL"] = "C.UTF-8"

ROOT = Path(__file__).resolve().parent.parent
SMALL_MODEL = ROOT / "tests" / "models" / "drawings"
# Nothing that a test waits for takes so long, even where other programs keep all cores busy: a wait
# that reaches it has failed. No test says how fast something is; that is what ops/bench measures.
PATIENCE_S = 240.0
# What takes long and is about benchmarks, or about what a shorter test shows, too.
LONG = pytest.mark.skipif(not os.environ.get("FULL_SUITE"), reason="long: FULL_SUITE=1 runs it")
# When tests have to end, in seconds since 1970; 0: whenever they are done. `.ci/run` sets it.
ENDS_AT_S = float(os.environ.get("TESTS_END_AT_S", "0"))
# A minute of both cores and more, for what other tests show of something smaller.
HEAVY = pytest.mark.skipif(bool(ENDS_AT_S), reason="a minute of work: ops/test runs it")
# A worker of a hundred images a second on whatever machine: what must be met at work, is.
STEADY = (str(ROOT / "ops" / "bench" / "simulated.py"), "40")


# Six processes share the files: those that take minutes are begun first.
LONGEST = (
    "test_containers",
    "test_full_size",
    "test_installs",
    "test_ops_bench",
    "test_languages",
    "test_faults",
    "test_redis_refuses",
    "test_server_check",
    "test_bench",
    "test_engines",
    "test_readme",
    "test_embeddings",
    "test_end_to_end",
    "test_embedded_mode",
    "test_real_models",
    "test_fetch",
    "test_api",
    "test_bootsteps",
    "test_status",
    "test_export",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "unit":
            item.add_marker("fast")
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
    if ENDS_AT_S:
        # What takes seconds in all is not what should be left out.
        items.sort(key=lambda item: item.get_closest_marker("fast") is None)


def pytest_collection_finish() -> None:
    """Let each of the processes that share the cores compute on one: teams wait for each other."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what is left when the time of continuous integration is up, and say so."""
    if ENDS_AT_S and time.time() > ENDS_AT_S:
        pytest.skip(f"{item.path.stem}: the machine is slow, and time is up: ops/test runs all")


# How long an example takes says nothing on a busy machine; failures are printed, not kept in files.
hypothesis.settings.register_profile(
    "suite",
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Undo what a command that ran in this process leaves behind, as its own would end with it.

    Objects go as all others do (contract/imports.py), arguments are written as Python's, and
    signals that it ignored once it was stopped reach this process and its children again.
    """
    before = {number: signal.getsignal(number) for number in STOPS}
    yield
    gc.unfreeze()
    write_as_options(is_command=False)
    for number, handler in before.items():
        signal.signal(number, handler)


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

    Workers may read everywhere, unless it says otherwise, and compute on one thread. They hold a
    small model: `model=""` is the bundled one.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("WANWU_")}
    settings = {"image_roots": "/", "model": str(SMALL_MODEL), "threads": "1"} | settings
    return inherited | {f"WANWU_{name.upper()}": value for name, value in settings.items()}


def run(
    *argv: str, timeout_s: float = PATIENCE_S, cwd: Path = ROOT, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run `producer` or `worker` in a process of its own, which need not load its libraries."""
    module, *rest = argv
    env = environment(**settings) | {"PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as directory:
        out, err = Path(directory) / "out", Path(directory) / "err"
        process = parent().start(("-m", f"{module}.cli", *rest), cwd=cwd, env=env, out=out, err=err)
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(argv, code, out.read_text(), err.read_text())


def produced(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    return run("producer", *map(str, argv))


@dataclass
class Worker:
    """A worker process with its log."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, argv: str, timeout_s: float = PATIENCE_S) -> None:
        """Wait until the log says so."""
        deadline_s = time.monotonic() + timeout_s
        while argv not in self.text:
            if self.process.poll() is not None or time.monotonic() > deadline_s:
                pytest.fail(f"the worker never said {argv!r}:\n{self.text}")
            time.sleep(0.05)

    def stop(self, grace_s: float = PATIENCE_S) -> int:
        return stop_child(self.process, grace_s)


@dataclass
class Fleet:
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
        fresh: bool = False,
        **settings: str,
    ) -> Worker:
        """Start a worker; if it is to be `fresh`, in a process that loads everything itself."""
        log = self.directory / f"worker-{len(self.workers)}.log"
        argv = (*program, "start", *options)
        env = environment(broker_url=url, **settings) | {"PYTHONPATH": str(ROOT)}
        process = _fresh(argv, env | (variables or {}), log) if fresh or variables else None
        worker = Worker(process or parent().start(argv, cwd=ROOT, env=env, out=log, err=log), log)
        self.workers.append(worker)
        self.stack.callback(worker.stop)
        if ready:
            worker.wait_for("worker.ready")
        return worker


def _fresh(argv: Sequence[str], env: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as sink:
        return start_child(
            [sys.executable, *argv], cwd=ROOT, env=env, stdout=sink, stderr=subprocess.STDOUT
        )


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with ExitStack() as stack:
        yield Fleet(tmp_path_factory.mktemp("workers"), stack)


def until(condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    """Wait until it is true."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            pytest.fail("it never came true")
        time.sleep(0.02)


@pytest.fixture
def wait_until() -> Callable[..., None]:
    return until
