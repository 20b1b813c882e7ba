"""Two installations and an application of Celery's in one database, under load and faults.

    python ops/faults/neighbours.py [--minutes 10] [--images 2000] [--every 4] [--seed N]

Each installation, with a prefix of its own and leases of 4 seconds, has two workers and submits one
job after the other. The application has one worker, tasks of up to 20 seconds that are acknowledged
when they have ended, and sends its control commands to all that hear them. Meanwhile workers of the
installations are killed and stopped, and jobs are cancelled. Afterwards each image has one record,
each task of the application has run once, no worker has ended by itself, and each key in Redis
belongs to one of the three. Exit code 1 if not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import redis
from campaign import made_images
from sender import submit
from server import Server
from supervisor import Supervisor

from worker.contract.keys import Keys
from worker.contract.local.subprocesses import start_child, stop_child

HERE: Final = Path(__file__).resolve().parent
LEASE_S: Final = 4
PREFIXES: Final = ("a:", "b.x-")
# What the application has by Celery's own names, and its own.
STOCK_KEYS: Final = ("celery", "unacked", "_kombu", "stock-", "kombu")
# The application's commands to all workers that hear it.
COMMANDS: Final = (
    ("control", "add_consumer", "elsewhere"),
    ("control", "pool_grow", "1"),
    ("control", "rate_limit", "worker.tag", "1/m"),
    ("control", "cancel_consumer", "tag"),
    ("inspect", "stats"),
    ("purge", "-f", "-Q", "elsewhere,tag"),
)
_TIMEOUT_S: Final = 120.0
_PAUSE_S: Final = 0.1
_LONGEST_TASK_S: Final = 20.0


class Installation:
    """Workers of one prefix, and its jobs, one after the other."""

    def __init__(self, server: Server, prefix: str, directory: Path, images: list[Path]) -> None:
        self._url = server.url
        self._directory = directory
        self._images = images
        self._environment = os.environ | {"WANWU_PREFIX": prefix, "WANWU_BROKER_URL": server.url}
        self.prefix = prefix
        self.jobs = 0
        self.problems: list[str] = []
        log = directory / "workers.log"
        self.workers = Supervisor([server.url] * 2, LEASE_S, log, WANWU_PREFIX=prefix)
        self._producer: subprocess.Popen[bytes] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether its workers are online."""
        log = self._directory / "workers.log"
        return log.read_text(encoding="utf-8", errors="replace").count("worker.ready") >= len(
            self.workers.children
        )

    def begin(self) -> None:
        """Submit the next job."""
        self.jobs += 1
        log, variables = self._directory / "producer.log", self._environment
        out = str(self._out)
        self._producer = submit(self._images, "--out", out, log=log, variables=variables)

    def look(self) -> bool:
        """Look after the workers; return whether no job is under way."""
        self.workers.look_after(lacks_rights=False)
        if self._producer is None or self._producer.poll() is None:
            return self._producer is None
        self.problems += self._check(self._producer.wait())
        self._producer = None
        return True

    def _check(self, code: int) -> list[str]:
        lines = self._out.read_text(encoding="utf-8").splitlines() if self._out.exists() else []
        records = [json.loads(line) for line in lines]
        found = Counter(record["path"] for record in records)
        failed = sum(bool(record["error"]) for record in records)
        wanted = {str(path) for path in self._images}
        if code or failed or found.keys() != wanted or set(found.values()) != {1}:
            seen = f"exit {code}, {len(records)} records, {failed} of them failed"
            return [f"{self.prefix} job {self.jobs}: {seen}, {len(found)} of {len(wanted)} paths"]
        return []

    @property
    def _out(self) -> Path:
        return self._directory / f"{self.jobs}.jsonl"


class Stock:
    """The application: a worker, and how many tasks it was given."""

    def __init__(self, server: Server, directory: Path) -> None:
        self._environment = os.environ | {"STOCK_URL": server.url, "PYTHONPATH": str(HERE)}
        self._argv = (sys.executable, "-m", "celery", "-A", "stock")
        self.sent = 0
        with (directory / "stock.log").open("wb") as log:
            self.worker = start_child(
                [*self._argv, "worker", "-P", "threads", "-c", "8"],
                env=self._environment,
                cwd=directory,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def send(self, dice: random.Random) -> None:
        """Send some tasks."""
        from stock import run  # noqa: PLC0415 - it reads the environment when it is loaded

        for _ in range(2):
            run.delay(self.sent, dice.uniform(0.1, _LONGEST_TASK_S))
            self.sent += 1

    def command(self, argv: tuple[str, ...]) -> None:
        """Give a command, as whoever runs the application does."""
        subprocess.run(  # noqa: S603 - no words from outside
            [*self._argv, *argv],
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
            check=False,
        )


def run(minutes: float, images: list[Path], every_s: float, dice: random.Random) -> dict[str, Any]:
    """Return what was seen; `problems` is empty if all is as it should be."""
    faults: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="wanwu-neighbours-") as name, ExitStack() as stack:
        server = stack.enter_context(Server(Path(name)))
        os.environ["STOCK_URL"] = server.url
        stock = Stock(server, Path(name))
        stack.callback(stop_child, stock.worker, _TIMEOUT_S)
        installations = []
        for prefix in PREFIXES:
            directory = Path(name) / prefix.rstrip(":")
            directory.mkdir()
            installations.append(Installation(server, prefix, directory, images))
            stack.callback(installations[-1].workers.stop)
        until(lambda: all(one.is_ready for one in installations), "the workers")
        ends_s, next_s = time.monotonic() + 60 * minutes, time.monotonic()
        while time.monotonic() < ends_s:
            for one in installations:
                if one.look():
                    one.begin()
            if time.monotonic() >= next_s:
                faults[_fault(installations, stock, dice)] += 1
                next_s = time.monotonic() + dice.expovariate(1 / every_s)
            time.sleep(_PAUSE_S)
        until(lambda: sum(one.look() for one in installations) == len(PREFIXES), "the last jobs")
        client: Any = redis.Redis.from_url(server.url)
        stack.callback(client.close)
        until(lambda: client.hlen("stock-runs") == stock.sent, "the application's tasks")
        until(lambda: not client.exists("unacked", "celery"), "their end")
        problems = _problems(client, installations, stock)
    return {
        "minutes": minutes,
        "jobs": {one.prefix: one.jobs for one in installations},
        "images": len(images) * sum(one.jobs for one in installations),
        "tasks": stock.sent,
        "faults": dict(faults),
        "problems": problems,
    }


def _fault(installations: list[Installation], stock: Stock, dice: random.Random) -> str:
    what = dice.choice(("kill", "stop", "tasks", "tasks", "command"))
    workers = dice.choice(installations).workers
    if what == "kill":
        workers.kill(dice.choice(workers.children))
    elif what == "stop":
        workers.terminate(dice.choice(workers.children))
    elif what == "tasks":
        stock.send(dice)
    else:
        command = dice.choice(COMMANDS)
        stock.command(command)
        return " ".join(command[:2])
    return what


def _problems(client: Any, installations: list[Installation], stock: Stock) -> list[str]:
    problems = [problem for one in installations for problem in one.problems]
    for one in installations:
        problems += [f"a worker of {one.prefix} ended with {code}" for code in one.workers.ended]
    if stock.worker.poll() is not None:
        problems.append("the application's worker has ended")
    runs = Counter(client.hvals("stock-runs"))
    if set(runs) != {b"1"}:
        problems.append(f"tasks of the application by how often they ran: {dict(runs)}")
    names = [key.decode() for key in client.keys("*")]
    strange = [name for name in names if not name.startswith((*PREFIXES, *STOCK_KEYS))]
    problems += [f"nobody's key: {name}" for name in strange if ".reply." not in name]
    for one in installations:
        keys = Keys(one.prefix)
        left = [keys.queue, keys.processing, keys.unacked, keys.turns]
        problems += [f"left: {name}" for name in left if client.exists(name)]
    return problems


def until(is_so: Any, what: str) -> None:
    """Wait until it is so.

    Raises:
        SystemExit: it takes too long.
    """
    ends_s = time.monotonic() + _TIMEOUT_S
    while not is_so():
        if time.monotonic() > ends_s:
            msg = f"waited in vain for {what}"
            raise SystemExit(msg)
        time.sleep(_PAUSE_S)


def main() -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--images", type=int, default=2000, help="of each job")
    parser.add_argument("--every", type=float, default=4.0, help="seconds between faults, mean")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with made_images(options.images) as images:
        dice = random.Random(options.seed)  # noqa: S311 - no secret
        found = run(options.minutes, images, options.every, dice)
    print(json.dumps(found, indent=1))
    sys.exit(1 if found["problems"] else 0)


if __name__ == "__main__":
    main()
