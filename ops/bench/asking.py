"""What somebody waits who asks `POST /predict` about one image, beside a bulk job and without one.

    python ops/bench/asking.py [--asks 50] [--latency 40] [--json FILE]

One worker with a simulated device that takes a fixed time for a batch, and the HTTP API as
`producer serve` starts it. A question goes ahead of the bulk job's images, so that the job should
add to its wait no more than the batch that runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

import urllib3
from tables import hand_over
from tiny_images import small_images
from worker_pool import HERE, free_port, worker_at

from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.local.subprocesses import start_child, stop_child

ASKS: Final = 50
LATENCY_MS: Final = 40
# Of the bulk job: more than a worker tags while somebody asks.
_IMAGES_AN_ASK: Final = 200
_TIMEOUT_S: Final = 60.0
_WARM_UP: Final = 5
_POOL: Final = urllib3.PoolManager(retries=False, timeout=_TIMEOUT_S)


@contextmanager
def _serving(url: str) -> Iterator[str]:
    """Yield the address of an HTTP API at the broker.

    Raises:
        SystemExit: it does not answer.
    """
    port = free_port()
    options = ["-m", "producer.cli", "serve", "--broker", url, "--port", str(port)]
    child = start_child([sys.executable, *options], stderr=subprocess.DEVNULL)
    base, ends_s = f"http://127.0.0.1:{port}", time.monotonic() + _TIMEOUT_S
    try:
        while True:
            try:
                _POOL.request("GET", f"{base}/health")
                break
            except urllib3.exceptions.HTTPError as e:
                if time.monotonic() > ends_s:
                    msg = "the HTTP API did not start"
                    raise SystemExit(msg) from e
                time.sleep(0.1)
        yield base
    finally:
        stop_child(child, _TIMEOUT_S)


def _waits_ms(base: str, image: bytes, asks: int) -> list[float]:
    waits_ms = []
    for _ in range(asks):
        began_s = time.perf_counter()
        answer = _POOL.request(
            "POST", f"{base}/predict", fields={"image": ("a.jpg", image), "label": "猫"}
        )
        waits_ms.append(1000 * (time.perf_counter() - began_s))
        if answer.status != 200:  # noqa: PLR2004 - HTTP's own
            raise SystemExit(answer.data.decode())
    return waits_ms


def measure(asks: int, latency_ms: int) -> dict[str, Any]:
    """Ask so often without and so often beside a bulk job; return both medians."""
    with tempfile.TemporaryDirectory() as directory, EmbeddedRedis() as server:
        paths = small_images(Path(directory), _IMAGES_AN_ASK * asks)
        image = Path(paths[0]).read_bytes()
        with (
            worker_at(server.url, str(HERE / "simulated.py"), str(latency_ms)),
            _serving(server.url) as base,
        ):
            _waits_ms(base, image, _WARM_UP)
            idle_ms = median(_waits_ms(base, image, asks))
            job = _submit(server.url, paths)
            busy_ms = median(_waits_ms(base, image, asks))
            left = _left(server.url, job)
    return {
        "latency_ms": latency_ms,
        "asks": asks,
        "idle_ms": idle_ms,
        "busy_ms": busy_ms,
        "added_ms": busy_ms - idle_ms,
        "bulk_images_left": left,
    }


def _submit(url: str, paths: list[str]) -> str:
    listed = "".join(f"{path}\n" for path in paths)
    return _producer(url, "submit", "-", "--no-wait", given=listed).strip()


def _left(url: str, job: str) -> int:
    """Return how many images of the job were still to be tagged."""
    (reply,) = json.loads(_producer(url, "status", job, "--json"))["jobs"]
    return int(reply["images"] - reply["done"])


def _producer(url: str, *options: str, given: str = "") -> str:
    done = subprocess.run(  # noqa: S603 - no words from outside
        [sys.executable, "-m", "producer.cli", *options, "--broker", url],
        input=given,
        stdout=subprocess.PIPE,
        text=True,
        timeout=_TIMEOUT_S,
        check=True,
    )
    return done.stdout


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--asks", type=int, default=ASKS)
    parser.add_argument("--latency", type=int, default=LATENCY_MS, help="of a batch, milliseconds")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    found = measure(options.asks, options.latency)
    line = (
        f"median wait for an answer: {found['idle_ms']:.1f} ms without a bulk job, "
        f"{found['busy_ms']:.1f} ms beside one (a batch takes {found['latency_ms']} ms)"
    )
    hand_over(found, options.json, line)


if __name__ == "__main__":
    main()
