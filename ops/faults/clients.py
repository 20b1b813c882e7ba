"""Many clients of the HTTP API at once, most of them bad: what becomes of the others.

    python ops/faults/clients.py [--followers 1000] [--half-sent 250] [--hang-up 100] [--seconds 20]

One worker and one `producer serve`. Clients follow the results of open jobs, others send half of an
upload and fall silent, others ask `POST /predict` and hang up before the answer: all at once.
Meanwhile somebody asks `/health` and `POST /predict`, one after the other. Afterwards all of them
hang up, and within a minute there is nothing of them in Redis. Exit code 1 if not so, or if the
server needs too much memory, or `/health` too long.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import psutil
import redis
import urllib3
from server import Server, free_port
from supervisor import ROOT

from worker.contract.local.subprocesses import start_child, stop_child

HEALTH_MS: Final = 100.0
MEMORY_MB: Final = 300.0
CLEAN_S: Final = 60.0
_JOBS: Final = 20
_UPLOAD_BYTES: Final = 2_000_000
_TIMEOUT_S: Final = 120.0
_PAUSE_S: Final = 0.1
_OK: Final = 200
_POOL: Final = urllib3.PoolManager(retries=False, timeout=_TIMEOUT_S)
_BOUNDARY: Final = "half"


class Served(NamedTuple):
    """The HTTP API, and its process."""

    port: int
    process: psutil.Process

    @property
    def base(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def memory_mb(self) -> float:
        """What it has in memory now."""
        return float(self.process.memory_info().rss) / 1e6


class Crowd:
    """Connections that want nothing, and read whatever comes."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ears = selectors.DefaultSelector()
        self.bytes_read = 0

    def add(self, request: bytes) -> socket.socket:
        """Connect, and send so much."""
        line = socket.create_connection(("127.0.0.1", self._port), timeout=_TIMEOUT_S)
        line.sendall(request)
        line.settimeout(0)
        self._ears.register(line, selectors.EVENT_READ)
        return line

    def read(self) -> None:
        """Read what has come; forget those that were closed."""
        for key, _ in self._ears.select(0):
            line: Any = key.fileobj
            try:
                found = line.recv(65_536)
            except OSError:
                found = b""
            self.bytes_read += len(found)
            if not found:
                self._close(line)

    @property
    def size(self) -> int:
        """How many are connected."""
        return len(self._ears.get_map())

    def hang_up(self) -> None:
        """Close all connections."""
        for key in list(self._ears.get_map().values()):
            self._close(key.fileobj)

    def _close(self, line: Any) -> None:
        self._ears.unregister(line)
        line.close()


@contextmanager
def serving(url: str, log: Path) -> Iterator[Served]:
    """Yield the HTTP API at a Redis."""
    port = free_port()
    options = ["-m", "producer.cli", "serve", "--broker", url, "--port", str(port)]
    with log.open("ab") as sink:
        child = start_child([sys.executable, *options], stdout=sink, stderr=subprocess.STDOUT)
    served = Served(port, psutil.Process(child.pid))
    try:
        _await_worker(served)
        yield served
    finally:
        stop_child(child, _TIMEOUT_S)


def _await_worker(served: Served) -> None:
    ends_s = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < ends_s:
        try:
            answer = _POOL.request("GET", f"{served.base}/health")
            if json.loads(answer.data)["status"] == "ok":
                return
        except urllib3.exceptions.HTTPError:
            pass
        time.sleep(_PAUSE_S)
    msg = "the HTTP API, or the worker, did not start"
    raise SystemExit(msg)


def _head(method: str, path: str, *more: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *more]
    return "\r\n".join([*lines, "", ""]).encode()


def _form(path: str, field: str, *, is_half: bool) -> bytes:
    """Return a form with a file, or the first half of it."""
    name = f'Content-Disposition: form-data; name="{field}"; filename="a.jpg"'
    body = f"--{_BOUNDARY}\r\n{name}\r\n\r\n".encode()
    body += os.urandom(_UPLOAD_BYTES) + f"\r\n--{_BOUNDARY}--\r\n".encode()
    kind = f"Content-Type: multipart/form-data; boundary={_BOUNDARY}"
    head = _head("POST", path, kind, f"Content-Length: {len(body)}")
    return head + body[: len(body) // 2 if is_half else None]


def _open_jobs(served: Served) -> list[str]:
    found = [
        _POOL.request("POST", f"{served.base}/jobs", json={"open": True}) for _ in range(_JOBS)
    ]
    return [json.loads(answer.data)["id"] for answer in found]


def gather(served: Served, crowd: Crowd, jobs: list[str], options: argparse.Namespace) -> None:
    """Let all of them come; those that hang up do so a little later."""
    for number in range(options.followers):
        crowd.add(_head("GET", f"/jobs/{jobs[number % _JOBS]}/results?follow=true"))
    for number in range(options.half_sent):
        path, field = f"/jobs/{jobs[number % _JOBS]}/images", "images"
        if number % 2:
            path, field = "/predict", "image"
        crowd.add(_form(path, field, is_half=True))
    for _ in range(options.hang_up):
        line = socket.create_connection(("127.0.0.1", served.port), timeout=_TIMEOUT_S)
        line.sendall(_form("/predict", "image", is_half=False))
        line.close()


def watch(served: Served, crowd: Crowd, image: bytes, seconds: float) -> dict[str, Any]:
    """Ask for so long; return how long it took, what was answered, and the most memory."""
    health_ms, predict_ms, refused, most_mb = [], [], 0, 0.0
    ends_s = time.monotonic() + seconds
    while time.monotonic() < ends_s:
        crowd.read()
        began_s = time.monotonic()
        _POOL.request("GET", f"{served.base}/health")
        health_ms.append(1000 * (time.monotonic() - began_s))
        began_s = time.monotonic()
        fields = {"image": ("a.jpg", image)}
        answer = _POOL.request("POST", f"{served.base}/predict", fields=fields)
        predict_ms.append(1000 * (time.monotonic() - began_s))
        refused += answer.status != _OK
        most_mb = max(most_mb, served.memory_mb)
        time.sleep(_PAUSE_S)
    return {
        "asked": len(health_ms),
        "health_max_ms": round(max(health_ms), 1),
        "predict_max_ms": round(max(predict_ms), 1),
        "predict_refused": refused,
        "memory_max_mb": round(most_mb),
    }


def left(url: str) -> list[str]:
    """Return what is in Redis that should not be: bytes, requests, and results of them."""
    with redis.Redis.from_url(url) as client:
        names = [name.decode() for name in client.scan_iter()]
    kinds = (":blob:", ".urgent", "-task-meta-now-")
    return [name for name in names if any(kind in name for kind in kinds)]


def await_clean(url: str) -> tuple[float, list[str]]:
    """Wait until nothing is left, for a minute at most; return how long that took."""
    began_s = time.monotonic()
    while (found := left(url)) and time.monotonic() - began_s < CLEAN_S:
        time.sleep(_PAUSE_S)
    return round(time.monotonic() - began_s, 1), found


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Return what was seen."""
    with tempfile.TemporaryDirectory(prefix="wanwu-clients-") as name, ExitStack() as stack:
        directory = Path(name)
        server = stack.enter_context(Server(directory))
        log = directory / "log"
        with log.open("ab") as sink:
            worker = start_child(
                [sys.executable, "-m", "worker.cli", "start", "--broker", server.url],
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        stack.callback(stop_child, worker, _TIMEOUT_S)
        served = stack.enter_context(serving(server.url, log))
        image = next((ROOT / "ops" / "examples").glob("*.jpg")).read_bytes()
        crowd = Crowd(served.port)
        jobs = _open_jobs(served)
        found: dict[str, Any] = {"memory_before_mb": round(served.memory_mb)}
        gather(served, crowd, jobs, options)
        found |= watch(served, crowd, image, options.seconds)
        found["followers"] = crowd.size
        crowd.hang_up()
        found["clean_after_s"], found["left"] = await_clean(server.url)
        found["memory_after_mb"] = round(served.memory_mb)
        found["traceback"] = "Traceback" in log.read_text(encoding="utf-8", errors="replace")
    return found


def problems(found: dict[str, Any], options: argparse.Namespace) -> list[str]:
    """Return what is not as it should be."""
    checks = {
        "a follower was cut off": found["followers"] < options.followers,
        "/health took too long": found["health_max_ms"] > HEALTH_MS,
        "a /predict was refused": found["predict_refused"] > 0,
        "the server needs too much memory": found["memory_max_mb"] > MEMORY_MB,
        "something is left in Redis": bool(found["left"]),
        "there is a traceback in the log": found["traceback"],
    }
    return [name for name, is_so in checks.items() if is_so]


def main() -> int:
    """Print the figures; return 1 if something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--followers", type=int, default=1000)
    parser.add_argument("--half-sent", type=int, default=250)
    parser.add_argument("--hang-up", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    found = run(options)
    found["problems"] = problems(found, options)
    print(json.dumps(found, indent=1))
    return 1 if found["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
