"""What it costs to watch: Flower's memory, and how soon it answers, after many images.

    python ops/bench/watching.py [--images 100000] [--chunk 8] [--json FILE]

Flower runs as ops/flower starts it, beside one worker with a model that costs nothing. Small chunks
are the worst case: Flower keeps a record of each.
"""

from __future__ import annotations

import argparse
import base64
import os
import secrets
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, Final

from client import tag
from tables import hand_over
from tiny_images import small_images
from worker_pool import HERE, Member, free_port, worker_at

from producer.backend.connection import open_connection
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.local.subprocesses import start_child, stop_child
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings

IMAGES: Final = 100_000
CHUNK: Final = 8
_START_TIMEOUT_S: Final = 60.0
_LOOKS: Final = 5
# Of the Tasks page's table: its first lines.
_TABLE: Final = "/tasks/datatable?draw=1&start=0&length=15&order[0][column]=0&order[0][dir]=desc"
_PAGES: Final = (
    "/tasks",
    f"{_TABLE}&columns[0][data]=received&search[value]=",
    "/workers",
    "/throughput",
)


class Flower:
    """A Flower at a broker, with a password of its own."""

    def __init__(self, url: str, port: int) -> None:
        password = f"bench:{secrets.token_urlsafe(8)}"
        word = base64.b64encode(password.encode()).decode()
        self._base = f"http://127.0.0.1:{port}"
        self._headers = {"Authorization": f"Basic {word}"}
        variables = {"WANWU_BROKER_URL": url, "FLOWER_BASIC_AUTH": password}
        self.child = start_child(
            [str(HERE.parent / "flower"), f"--port={port}"],
            env=os.environ | variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def get(self, path: str) -> bytes:
        """Return a page."""
        request = urllib.request.Request(f"{self._base}{path}", headers=self._headers)  # noqa: S310 - ours
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            body: bytes = answer.read()
            return body

    def wait(self) -> None:
        """Return once it answers.

        Raises:
            SystemExit: it does not.
        """
        ends_s = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < ends_s:
            try:
                self.get("/workers")
            except OSError:
                time.sleep(0.1)
            else:
                return
        msg = "Flower did not start"
        raise SystemExit(msg)


def measure(images: int, chunk: int) -> dict[str, Any]:
    """Tag so many images under Flower's eyes; return its memory and the times of its pages."""
    with tempfile.TemporaryDirectory() as directory, EmbeddedRedis() as server:
        paths = small_images(Path(directory), images)
        port = free_port()
        flower = Flower(server.url, port)
        try:
            flower.wait()
            member = Member(flower.child.pid)
            at_rest_mb = member.resident_mb()
            with (
                worker_at(server.url, str(HERE / "simulated.py"), "0"),
                open_connection(Settings(broker_url=SecretUrl(server.url))) as connection,
            ):
                began_s = time.perf_counter()
                tag(connection, paths, chunk_images=chunk, take=lambda _: None)
                took_s = time.perf_counter() - began_s
                # Flower reads its events as fast as it can: let it come to the last.
                time.sleep(5)
                slowest_ms = {page.partition("?")[0]: _slowest_ms(flower, page) for page in _PAGES}
            return {
                "images": images,
                "chunks": -(-images // chunk),
                "images_per_s": images / took_s,
                "flower_at_rest_mb": at_rest_mb,
                "flower_mb": member.resident_mb(),
                "slowest_of_five_ms": slowest_ms,
            }
        finally:
            stop_child(flower.child, 10)


def _slowest_ms(flower: Flower, page: str) -> float:
    times_ms = []
    for _ in range(_LOOKS):
        began_s = time.perf_counter()
        flower.get(page)
        times_ms.append(1000 * (time.perf_counter() - began_s))
    return max(times_ms)


def main() -> None:
    """Run the benchmark as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--chunk", type=int, default=CHUNK)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    hand_over(measure(options.images, options.chunk), options.json)


if __name__ == "__main__":
    main()
