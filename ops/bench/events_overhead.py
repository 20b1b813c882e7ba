"""What it costs a worker to be watched: its images a second with events and metrics, and without.

    python ops/bench/events_overhead.py [--images 20000] [--rounds 7] [--chunk N] [--json FILE]

Three workers with a model that costs nothing, each with a Redis of its own, take turns over the
same files, since machines change speed. One tells nothing. One tells an event of each chunk
(`WANWU_TASK_EVENTS`) and is asked for its metrics as often as ops/prometheus asks; who listens is
elsewhere. The third tells the same, and Flower listens on the same machine, so it takes its CPU
from the worker's. Chunks are as the producer makes them unless `--chunk` says otherwise; small
ones, with events for each, are the worst case. Ratios are those of the rounds: least, median
and most.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

from client import tag
from tables import hand_over
from tiny_images import small_images
from watching import Flower
from worker_pool import HERE, free_port, worker_at

from producer.backend.connection import Connection, open_connection
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.local.subprocesses import stop_child
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings

IMAGES: Final = 20_000
ROUNDS: Final = 7
# As in ops/prometheus/prometheus.yml.
SCRAPE_S: Final = 10.0
_WARM_UP: Final = 4
# Flower reads its events as fast as it can: let it come to the last.
_HEARD_TIMEOUT_S: Final = 30.0


def measure(images: int, rounds: int, chunk: int | None) -> dict[str, Any]:
    """Let all tag so many images a turn; return their rates, and how much was told."""
    ports = {"told": free_port(), "in_flower": free_port()}
    rates: dict[str, list[float]] = {"untold": [], "told": [], "in_flower": []}
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        paths = small_images(Path(directory), images)
        desks = {name: stack.enter_context(_worker(ports.get(name))) for name in rates}
        flower = stack.enter_context(_flower(desks["in_flower"].settings.broker_url.reveal()))
        for connection in desks.values():
            tag(connection, paths[: images // _WARM_UP], chunk_images=chunk, take=len)
        order = list(desks)
        with _scraper(*ports.values()) as scrapes:
            for _ in range(rounds):
                # Who goes first takes turns, too.
                order.append(order.pop(0))
                for name in order:
                    began_s = time.perf_counter()
                    tag(desks[name], paths, chunk_images=chunk, take=len)
                    rates[name].append(images / (time.perf_counter() - began_s))
        heard = _heard(flower, rounds * images + images // _WARM_UP)
    return {
        "images": images,
        "rounds": rounds,
        "chunk": chunk or "default",
        "images_per_s": {name: median(found) for name, found in rates.items()},
        "images_that_flower_heard_of": heard,
        "scrapes": len(scrapes),
        "told_of_untold": _ratios(rates["told"], rates["untold"]),
        "in_flower_of_untold": _ratios(rates["in_flower"], rates["untold"]),
    }


def _ratios(ones: list[float], others: list[float]) -> dict[str, float]:
    """Return how the rounds' ratios are spread: their noise may be larger than what they show."""
    found = [one / other for one, other in zip(ones, others, strict=True)]
    return {"least": min(found), "median": median(found), "most": max(found)}


@contextmanager
def _worker(port: int | None) -> Iterator[Connection]:
    """Start a worker that tells events, and metrics at a port; without a port, nothing."""
    reply = {"WANWU_TASK_EVENTS": "1" if port else "0", "WANWU_MONITOR_PORT": str(port or 0)}
    with (
        EmbeddedRedis() as server,
        worker_at(server.url, str(HERE / "simulated.py"), "0", **reply),
        open_connection(Settings(broker_url=SecretUrl(server.url))) as connection,
    ):
        yield connection


@contextmanager
def _flower(url: str) -> Iterator[Flower]:
    flower = Flower(url, free_port())
    try:
        flower.wait()
        yield flower
    finally:
        stop_child(flower.child, 10)


def _heard(flower: Flower, images: int) -> int:
    """Return of how many images Flower knows, once it does of all or does not come on."""
    heard, ends_s = 0, time.monotonic() + _HEARD_TIMEOUT_S
    while heard < images and time.monotonic() < ends_s:
        view = json.loads(flower.get("/api/throughput"))
        heard = sum(one["images"] for one in view["workers"])
        time.sleep(0.5)
    return heard


@contextmanager
def _scraper(*ports: int) -> Iterator[list[int]]:
    """Ask for the metrics from time to time, to the end of the block; yield the answers' sizes."""
    found: list[int] = []
    ends = threading.Event()

    def scrape() -> None:
        while True:
            for port in ports:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                    found.append(len(answer.read()))
            if ends.wait(SCRAPE_S):
                return

    thread = threading.Thread(target=scrape, daemon=True, name="metrics")
    thread.start()
    try:
        yield found
    finally:
        ends.set()
        thread.join(10)


def main() -> None:
    """Run the benchmark as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=IMAGES, help="of a turn")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--chunk", type=int, help="of so many images")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    hand_over(measure(options.images, options.rounds, options.chunk), options.json)


if __name__ == "__main__":
    main()
