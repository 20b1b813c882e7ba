"""Tag thousands of images while the master fails over, and measure what is lost by that.

    python ops/faults/failover.py [--failovers 10] [--images 5000] [--lease 10] [--replicas 1]
                                  [--wait-replicas N] [--min-replicas N] [--json FILE] [--logs DIR]

Three sentinels watch a master and its replicas. For each failover, three workers tag the images of
one `producer submit`; in the middle of it the master is killed and started again some seconds
later, or, every second time, the sentinels are told to choose another one while it goes on. Two of
four jobs send bytes: of those few are under way, so that the failover comes while chunks are sent;
the others have sent all by then. The model is simulated. A job that stands still or lacks images,
because its messages were lost, is run again with `--resume --retry-failed`. Each image must have
exactly one record at the end, and no worker may have ended.

Meanwhile a client writes numbers, one after the other, as fast as they are answered. `lost_writes`
are those that were answered and are not there afterwards, `loss_window_ms` is the time in which
they were answered. With `--wait-replicas` (WANWU_REDIS_WAIT_REPLICAS) a write counts as answered
once so many replicas have it. `--min-replicas` is the servers' own min-replicas-to-write.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self

import redis
from campaign import made_images
from sender import submit
from sentinels import Service
from supervisor import Supervisor

from worker.contract.keys import DEFAULT_KEYS
from worker.contract.local.subprocesses import stop_child
from worker.contract.redis.connections import single_try_client
from worker.contract.redis.replicas import await_replicas

KINDS: Final = ("SIGKILL", "SENTINEL FAILOVER")
WORKERS: Final = 3
# The failover comes when so many of the images have records.
_MIDDLE: Final = 0.3
# So long the old master is away.
_AWAY_S: Final = 5.0
# Longer than a failover, a lease and what others need to notice: messages are lost.
_STILL_S: Final = 60.0
_PAUSE_S: Final = 0.1
_SHORT_S: Final = 0.02
_GRACE_S: Final = 30.0
_RUNS: Final = 4
_PROBE: Final = "failover:probe"


class Probe:
    """Writes numbers to the master within `with`, and notes when each was answered."""

    def __init__(self, url: str, replicas: int) -> None:
        self._client: Any = single_try_client(url)
        self._replicas = replicas
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._answered_s: dict[int, float] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def losses(self) -> dict[str, Any]:
        """Return how many answered writes there were, and what became of them."""
        there = {int(number) for number in self._client.lrange(_PROBE, 0, -1)}
        self._client.unlink(_PROBE)
        lost_s = [at_s for number, at_s in self._answered_s.items() if number not in there]
        window_s = max(lost_s) - min(lost_s) if lost_s else 0.0
        return {
            "writes": len(self._answered_s),
            "lost_writes": len(lost_s),
            "loss_window_ms": round(1000 * window_s, 1),
        }

    def _write(self) -> None:
        number = 0
        while not self._ends.wait(0.001):
            number += 1
            try:
                self._client.rpush(_PROBE, number)
                await_replicas(self._client, DEFAULT_KEYS, self._replicas, 0.0)
            except (redis.RedisError, OSError):
                time.sleep(_SHORT_S)
            else:
                self._answered_s[number] = time.monotonic()


class Job:
    """One `producer submit` that is run until all records are there."""

    def __init__(
        self, url: str, directory: Path, images: list[Path], replicas: int, *, blobs: bool
    ) -> None:
        self._environment = os.environ | {
            "WANWU_BROKER_URL": url,
            "WANWU_REDIS_WAIT_REPLICAS": str(replicas),
        }
        self._directory = directory
        self._images = images
        self._options = ["--blobs"] * blobs
        self.out = directory / "out.jsonl"
        self.longest_still_s = 0.0
        self.codes: list[int] = []
        self._seen, self._moved_s = 0, time.monotonic()

    def start(self) -> subprocess.Popen[bytes]:
        """Start the command, or start it again with --resume."""
        options = ["--out", str(self.out), *self._options]
        options += ["--resume", "--retry-failed"] if self.codes else []
        log = self._directory / "producer.log"
        return submit(self._images, *options, log=log, variables=self._environment)

    def run(self, middle: threading.Event, staff: Supervisor) -> None:
        """Run it to its end; `middle` is set when it is in the middle of its work."""
        while len(self.codes) < _RUNS and (not self.codes or self.codes[-1] != 0):
            child = self.start()
            self._moved_s = time.monotonic()
            while child.poll() is None:
                staff.look_after(lacks_rights=False)
                if self._look() > _MIDDLE * len(self._images):
                    middle.set()
                if time.monotonic() - self._moved_s > _STILL_S:
                    child.send_signal(signal.SIGINT)
                    stop_child(child, _GRACE_S)
                time.sleep(_PAUSE_S)
            self.codes.append(child.wait())
        middle.set()

    def problems(self) -> list[str]:
        """Return what is wrong with the records."""
        if not self.out.exists():
            return ["no records"]
        records = map(json.loads, self.out.read_text(encoding="utf-8").splitlines())
        found = Counter("failed" if one["error"] else one["path"] for one in records)
        wanted = {str(path) for path in self._images}
        counts = {
            "missing": len(wanted - found.keys()),
            "failed": found.pop("failed", 0),
            "more than once": sum(count > 1 for count in found.values()),
            "unknown": len(found.keys() - wanted),
        }
        return [f"{count} {what}" for what, count in counts.items() if count]

    def _look(self) -> int:
        """Return how many records there are; note for how long there were no more."""
        lines = self.out.read_bytes().count(b"\n") if self.out.exists() else 0
        now_s = time.monotonic()
        if self._seen:
            self.longest_still_s = max(self.longest_still_s, now_s - self._moved_s)
        if lines != self._seen:
            self._seen, self._moved_s = lines, now_s
        return lines


def fail(service: Service, kind: str, middle: threading.Event) -> None:
    """Wait for the middle of the job, and let the master fail over, in the way named."""
    middle.wait()
    if kind == KINDS[0]:
        old = service.kill_master()
        time.sleep(_AWAY_S)
        service.restart(old)
    else:
        service.fail_over()
    service.await_replicas()


def measure(
    service: Service, staff: Supervisor, images: list[Path], number: int, replicas: int
) -> dict[str, Any]:
    """Run one job over one failover, and return what was seen.

    The job has a thread of its own, and servers have not: they end with the thread that starts
    them.
    """
    kind, blobs = KINDS[number % 2], bool(number // 2 % 2)
    ended, middle, began_s = len(staff.ended), threading.Event(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="wanwu-failover-") as name:
        job = Job(service.url, Path(name), images, replicas, blobs=blobs)
        with Probe(service.url, replicas) as probe, ThreadPoolExecutor() as pool:
            running = pool.submit(job.run, middle, staff)
            fail(service, kind, middle)
            running.result()
        problems = job.problems()
        problems += [f"a worker ended with {code}" for code in staff.ended[ended:]]
        problems += [f"the producer ended with {job.codes[-1]}"] * bool(job.codes[-1])
    return {
        "kind": kind,
        "images": len(images),
        "blobs": blobs,
        "resumed": len(job.codes) - 1,
        "s": round(time.monotonic() - began_s, 1),
        "longest_still_s": round(job.longest_still_s, 1),
        **probe.losses(),
        "problems": problems,
    }


def await_workers(log: Path) -> None:
    """Wait until all workers have said that they are ready.

    Raises:
        TimeoutError: they have not.
    """
    ends_s = time.monotonic() + _STILL_S
    while log.read_text(encoding="utf-8", errors="replace").count("worker.ready") < WORKERS:
        if time.monotonic() > ends_s:
            msg = f"the workers did not come up: see {log}"
            raise TimeoutError(msg)
        time.sleep(_PAUSE_S)


def run(options: argparse.Namespace, directory: Path) -> list[dict[str, Any]]:
    """Return what was seen of each failover."""
    servers = {"min-replicas-to-write": str(options.min_replicas), "min-replicas-max-lag": "2"}
    found = []
    with ExitStack() as stack:
        images = stack.enter_context(made_images(options.images))
        service = Service(directory, replicas=options.replicas, options=servers)
        stack.enter_context(service)
        os.environ["WANWU_REDIS_WAIT_REPLICAS"] = str(options.wait_replicas)
        log = options.logs / "workers.log"
        log.unlink(missing_ok=True)
        staff = Supervisor([service.url] * WORKERS, options.lease, log)
        stack.callback(staff.stop)
        await_workers(log)
        for number in range(options.failovers):
            seen = measure(service, staff, images, number, options.wait_replicas)
            print(json.dumps(seen), flush=True)
            found.append(seen)
    return found


def main() -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--failovers", type=int, default=10)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--lease", type=int, default=10, help="visibility timeout in seconds")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--wait-replicas", type=int, default=0)
    parser.add_argument("--min-replicas", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write what was seen to this file")
    parser.add_argument("--logs", type=Path, help="keep the log of the workers here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wanwu-sentinels-") as name:
        options.logs = options.logs or Path(name)
        options.logs.mkdir(parents=True, exist_ok=True)
        found = run(options, Path(name))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if any(one["problems"] for one in found) else 0)


if __name__ == "__main__":
    main()
