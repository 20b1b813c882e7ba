"""Whether memory stays what it is: worker, producer and Redis under full load for half an hour.

    python ops/bench/soak.py [--minutes 30] [--settle 3] [--json FILE]

One `producer submit -` feeds one worker with small JPEGs, a few files over and over, as fast as it
takes them; the model costs nothing, and results are read as a user's pipe would. Memory is looked
at every second. Each must stay within 5 % of what it was after the time to settle: exit code 1 if
not.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import IO, Any, Final

from tables import hand_over
from tiny_images import small_images
from worker_pool import HERE, Member, worker_at

from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.redis.connections import connect

MINUTES: Final = 30.0
SETTLE_MINUTES: Final = 3.0
SHARE: Final = 0.05
_FILES: Final = 16
_LINES: Final = 500
_PAUSE_S: Final = 1.0
# Of so many looks one is made: what a garbage collector has not been at yet is no growth.
_LOOKS: Final = 20
_SHOWN: Final = 30
_MB: Final = 1e6
_MINUTE_S: Final = 60


def soak(minutes: float, settle_minutes: float) -> dict[str, Any]:
    """Return the memory of each after the time to settle, and the most and least since.

    Raises:
        SystemExit: the producer failed.
    """
    with tempfile.TemporaryDirectory() as name, EmbeddedRedis() as server:
        block = "".join(f"{path}\n" for path in small_images(Path(name), _FILES)).encode()
        with worker_at(server.url, str(HERE / "simulated.py"), "0") as worker:
            process = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-m", "producer.cli", "submit", "-", "--broker", server.url],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            done = threading.Event()
            feeder = threading.Thread(target=_feed, args=(process, block, done))
            counted = _Counter(process)
            feeder.start()
            counted.start()
            client = connect(server.url)
            looks = {
                "worker": worker.resident_mb,
                "producer": Member(process.pid).resident_mb,
                "redis": lambda: client.info("memory")["used_memory"] / _MB,
            }
            began_s = time.monotonic()
            taken = _watch(looks, minutes * _MINUTE_S)
            took_s = time.monotonic() - began_s
            images = counted.lines
            done.set()
            feeder.join()
            code = process.wait()
    if code:
        msg = f"the producer ended with {code}"
        raise SystemExit(msg)
    settled = settle_minutes * _MINUTE_S
    found = {name: _figures(seen, settled) for name, seen in taken.items()}
    return {"minutes": minutes, "images": images, "images_per_s": images / took_s, **found}


class _Counter(threading.Thread):
    """Reads the records."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__()
        self._lines: IO[bytes] | None = process.stdout
        self.lines = 0

    def run(self) -> None:
        for _ in self._lines or ():
            self.lines += 1


def _feed(process: subprocess.Popen[bytes], block: bytes, done: threading.Event) -> None:
    """Write paths as fast as they are read, until it is enough."""
    assert process.stdin is not None  # noqa: S101 - for the type checker
    for many in cycle([block * (_LINES // _FILES)]):
        if done.is_set():
            break
        process.stdin.write(many)
    process.stdin.close()


def _watch(
    looks: dict[str, Callable[[], float]], seconds: float
) -> dict[str, list[tuple[float, float]]]:
    """Return what each held, as medians over some looks, with the time since the beginning."""
    began_s = time.monotonic()
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in looks}
    recent: dict[str, list[float]] = {name: [] for name in looks}
    looks_a_sample = max(1, min(_LOOKS, int(seconds / _PAUSE_S / _LOOKS)))
    while (passed_s := time.monotonic() - began_s) < seconds:
        for name, look in looks.items():
            recent[name].append(look())
            if len(recent[name]) == looks_a_sample:
                taken[name].append((passed_s, median(recent[name])))
                recent[name] = []
        time.sleep(_PAUSE_S)
    return taken


def _figures(seen: list[tuple[float, float]], settled_s: float) -> dict[str, Any]:
    since = [mb for passed_s, mb in seen if passed_s >= settled_s] or [seen[-1][1]]
    return {
        "settled_mb": since[0],
        "least_mb": min(since),
        "most_mb": max(since),
        "last_mb": since[-1],
        "growth_share": max(since) / since[0] - 1,
        "over_time_mb": [round(mb, 1) for _, mb in seen[:: max(1, len(seen) // _SHOWN)]],
    }


def main() -> None:
    """Run the soak as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--settle", type=float, default=SETTLE_MINUTES, help="minutes")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    figures = soak(options.minutes, options.settle)
    hand_over(figures, options.json)
    growths = [figures[name]["growth_share"] for name in ("worker", "producer", "redis")]
    sys.exit(1 if max(growths) > SHARE else 0)


if __name__ == "__main__":
    main()
