"""Tag good images among files that are made to take long or much memory, and ask for others.

    python ops/faults/bombs.py [--images 2000] [--bombs N] [--json FILE] [--write DIR]

One worker, whose model is simulated, and one `producer serve`. Two bulk jobs, one of good images
and one with bombs among them; meanwhile a client asks `POST /predict` for a good image, one after
the other, and another the worker's health. Exit code 1 if an image has not one record, if a good
one has failed, if the worker ended or was unhealthy, or if a request in a hundred took a second or
longer.

The pace is that of the good images until the last of them is done: bombs take their share of the
cores, and a record is written when its whole chunk is done. With `--write`,
the bombs are written to a directory, and nothing else is done.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import quantiles
from threading import Event
from typing import Any, Final

import psutil
import redis
import urllib3
from bomb_containers import containers
from bomb_rasters import rasters
from campaign import made_images
from clients import Served, serving
from full import until
from sender import submit
from server import Server, free_port
from supervisor import Supervisor

LEASE_S: Final = 60
SLOWEST_S: Final = 1.0
_PAUSE_S: Final = 0.1
_MB: Final = 1e6
_OK: Final = 200
_TIMEOUT_S: Final = 60.0
_POOL: Final = urllib3.PoolManager(retries=False, timeout=_TIMEOUT_S)


def write_bombs(directory: Path) -> list[Path]:
    """Write each bomb to a file; return their paths."""
    files = []
    for name, data in (*rasters(), *containers()):
        files.append(directory / name)
        files[-1].write_bytes(data)
    return files


class Watch:
    """What is seen while a job runs: answers to requests, health, memory."""

    def __init__(self, served: Served, monitor: str, worker: int, image: bytes) -> None:
        self._served, self._monitor, self._image = served, monitor, image
        self._worker = psutil.Process(worker)
        self.answers_s: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.health: Counter[int] = Counter()
        self.worker_mb = self.all_mb = 0.0

        self.good_s = 0.0

    @contextmanager
    def running(self, out: Path, good: set[str]) -> Iterator[None]:
        """Look and ask until the block ends, and when the records of good images come."""
        ended = Event()
        with ThreadPoolExecutor(3) as threads:
            asking = [threads.submit(one, ended) for one in (self._ask, self._look)]
            asking.append(threads.submit(self._follow, ended, out, good))
            try:
                yield
            finally:
                ended.set()
        for one in asking:
            one.result()

    def figures(self) -> dict[str, Any]:
        """Return what was seen."""
        cuts = quantiles(self.answers_s, n=100, method="inclusive")
        return {
            "predict_requests": len(self.answers_s),
            "predict_p50_ms": round(1000 * cuts[49]),
            "predict_p99_ms": round(1000 * cuts[98]),
            "predict_statuses": dict(self.statuses),
            "health": dict(self.health),
            "worker_peak_mb": round(self.worker_mb),
            "with_decoders_peak_mb": round(self.all_mb),
        }

    def _ask(self, ended: Event) -> None:
        while not ended.wait(_PAUSE_S):
            began_s = time.monotonic()
            fields = {"image": ("good.jpg", self._image, "image/jpeg")}
            answer = _POOL.request("POST", f"{self._served.base}/predict", fields=fields)
            self.answers_s.append(time.monotonic() - began_s)
            self.statuses[answer.status] += 1

    def _look(self, ended: Event) -> None:
        while not ended.wait(_PAUSE_S):
            self.health[_POOL.request("GET", self._monitor).status] += 1
            self.worker_mb = max(self.worker_mb, self._worker.memory_info().rss / _MB)
            self.all_mb = max(self.all_mb, _family_mb(self._worker))

    def _follow(self, ended: Event, out: Path, good: set[str]) -> None:
        began_s, seen_bytes = time.monotonic(), 0
        while not ended.wait(_PAUSE_S):
            if not out.exists():
                continue
            with out.open("rb") as file:
                file.seek(seen_bytes)
                new = file.read()
            lines = new[: new.rfind(b"\n") + 1].splitlines(keepends=True)
            seen_bytes += sum(map(len, lines))
            if any(json.loads(line)["path"] in good for line in lines):
                self.good_s = time.monotonic() - began_s


def _family_mb(worker: psutil.Process) -> float:
    """Return the memory of a worker and its decode processes; what they share counts once."""
    total = 0
    for one in (worker, *worker.children(recursive=True)):
        try:
            total += one.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total / _MB


def run_job(
    images: list[Path], good: set[str], server: Server, directory: Path, watch: Watch
) -> dict[str, Any]:
    """Return how a job went; `problems` is empty if all is as promised."""
    out, log = directory / f"{time.monotonic_ns()}.jsonl", directory / "producer.log"
    variables = {**os.environ, "WANWU_BROKER_URL": server.url}
    with watch.running(out, good):
        began_s = time.monotonic()
        submit(images, "--out", str(out), log=log, variables=variables).wait()
        took_s = time.monotonic() - began_s
    records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    found = Counter(record["path"] for record in records)
    codes = {one["path"]: (one["error"] or {"code": "ok"})["code"] for one in records}
    problems = {
        "images without one record": sum(found[str(path)] != 1 for path in images),
        "good images failed": sum(codes.get(path) != "ok" for path in good),
        "unhealthy answers": watch.health.total() - watch.health[_OK],
        "requests failed": watch.statuses.total() - watch.statuses[_OK],
    }
    return {
        "s": round(took_s, 1),
        "good_per_s": round(len(good) / watch.good_s, 1),
        "bombs": dict(Counter(code for path, code in codes.items() if path not in good)),
        **watch.figures(),
        "problems": [f"{count} {what}" for what, count in problems.items() if count],
    }


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return what was seen of the job without bombs, and of the one with them."""
    dice = random.Random(options.seed)  # noqa: S311 - no secret
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wanwu-bombs-")))
        images = stack.enter_context(made_images(options.images))
        server = stack.enter_context(Server(directory))
        port = free_port()
        log = directory / "workers.log"
        staff = Supervisor([server.url], LEASE_S, log, WANWU_MONITOR_PORT=str(port))
        stack.callback(staff.stop)
        with redis.Redis.from_url(server.url) as client:
            until(lambda: len(client.client_list(_type="pubsub")) >= 1)
        served = stack.enter_context(serving(server.url, directory / "api.log"))
        (directory / "bombs").mkdir()
        bombs = write_bombs(directory / "bombs")
        mixed = [*images, *dice.sample(bombs, min(options.bombs, len(bombs)))]
        dice.shuffle(mixed)
        good, found = set(map(str, images)), []
        for job in (images, mixed):
            monitor = f"http://127.0.0.1:{port}/healthz"
            watch = Watch(served, monitor, staff.children[0].pid, images[0].read_bytes())
            found.append(run_job(job, good, server, directory, watch))
        staff.look_after(lacks_rights=False)
        found[-1]["problems"] += [f"a worker ended with {code}" for code in staff.ended]
    if found[-1]["predict_p99_ms"] >= 1000 * SLOWEST_S:
        found[-1]["problems"].append("a request in a hundred took too long")
    return found


def main() -> None:
    """Run the jobs as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000, help="good ones")
    parser.add_argument("--bombs", type=int, default=sys.maxsize, help="at most, of all kinds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write what was seen to this file")
    parser.add_argument("--write", type=Path, metavar="DIR", help="write the bombs there, and end")
    options = parser.parse_args()
    if options.write:
        options.write.mkdir(parents=True, exist_ok=True)
        write_bombs(options.write)
        return
    alone, among = run(options)
    seen = {"without_bombs": alone, "with_bombs": among}
    print(json.dumps(seen, indent=1))
    if options.json:
        options.json.write_text(json.dumps(seen, indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if alone["problems"] or among["problems"] else 0)


if __name__ == "__main__":
    main()
