"""What it costs a worker to be watched: its images a second with events and metrics, and without.

    python ops/bench/telling.py [--images 20000] [--rounds 7] [--chunk N] [--json FILE]

Two workers with a model that costs nothing, each with a Redis of its own, take turns over the same
files, since machines change speed. One tells an event of each chunk (`WANWU_EVENTS`), which a
listener takes in as Flower's does, and answers `GET /metrics` every second; the other does neither.
Chunks are as the producer makes them unless `--chunk` says otherwise; small ones, with an event for
each, are the worst case. Listener and scraper take their CPU from the same machine. The ratio is
the median of the rounds' ratios.
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

from crew import HERE, free_port, worker_at
from drive import tag
from small import small_images

from producer.desk import Desk, open_desk
from worker.contract.embedded import EmbeddedRedis
from worker.contract.settings import Settings

IMAGES: Final = 20_000
ROUNDS: Final = 7
SCRAPE_S: Final = 1.0
_WARM_UP: Final = 4


def measure(images: int, rounds: int, chunk: int | None) -> dict[str, Any]:
    """Let both tag so many images a turn; return their rates, and how much was told."""
    port = free_port()
    told = {"WANWU_EVENTS": "1", "WANWU_MONITOR_PORT": str(port)}
    untold = {"WANWU_EVENTS": "0", "WANWU_MONITOR_PORT": "0"}
    rates: dict[str, list[float]] = {"watched": [], "unwatched": []}
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        paths = small_images(Path(directory), images)
        desks = {
            name: stack.enter_context(_worker(variables))
            for name, variables in (("watched", told), ("unwatched", untold))
        }
        for desk in desks.values():
            tag(desk, paths[: images // _WARM_UP], chunk_images=chunk, take=len)
        with _listener(desks["watched"]) as events, _scraper(port) as scrapes:
            for turn in range(rounds):
                # Who goes first takes turns, too.
                for name in sorted(desks, reverse=bool(turn % 2)):
                    began_s = time.perf_counter()
                    tag(desks[name], paths, chunk_images=chunk, take=len)
                    rates[name].append(images / (time.perf_counter() - began_s))
    pairs = zip(rates["watched"], rates["unwatched"], strict=True)
    return {
        "images": images,
        "rounds": rounds,
        "chunk": chunk or "default",
        "images_per_s": {name: median(found) for name, found in rates.items()},
        "events": len(events),
        "scrapes": len(scrapes),
        "watched_of_unwatched": median(one / other for one, other in pairs),
    }


@contextmanager
def _worker(variables: dict[str, str]) -> Iterator[Desk]:
    with (
        EmbeddedRedis() as server,
        worker_at(server.url, str(HERE / "simulated.py"), "0", **variables),
        open_desk(Settings(broker_url=server.url)) as desk,
    ):
        yield desk


@contextmanager
def _listener(desk: Desk) -> Iterator[list[str]]:
    """Take in what workers tell of tasks, until the end of the block."""
    found: list[str] = []
    with desk.app.connection() as connection:
        receiver = desk.app.events.Receiver(
            connection, handlers={"task-succeeded": lambda event: found.append(event["uuid"])}
        )
        thread = threading.Thread(
            target=receiver.capture, kwargs={"wakeup": False}, daemon=True, name="events"
        )
        thread.start()
        try:
            yield found
        finally:
            receiver.should_stop = True
            thread.join(10)


@contextmanager
def _scraper(port: int) -> Iterator[list[int]]:
    """Ask for the metrics every second, until the end of the block; yield the answers' sizes."""
    found: list[int] = []
    ends = threading.Event()

    def scrape() -> None:
        while not ends.wait(SCRAPE_S):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                found.append(len(answer.read()))

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
    words = parser.parse_args()
    text = json.dumps(measure(words.images, words.rounds, words.chunk), indent=1)
    print(text)
    if words.json:
        words.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
