"""Measure whether memory stays flat: of the producer over a million paths, of a worker over images.

    python ops/bench/memory.py [--paths 1000000] [--images 100000] [--json FILE]

The producer is `producer submit -`, whose results are read and counted as a user's pipe would, and
a worker answers without a look at the images, or a million would take hours. The other worker is a
real one with a model that costs nothing, on small JPEGs. Each is compared with what it held after
the first 10,000 images. The embedded Redis is asked for its peak.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from client import SIX, tag
from submit import write_list
from tables import hand_over
from tiny_images import small_images
from worker_pool import HERE, Member, worker_at

from producer.backend.connection import open_connection
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.messages import Record
from worker.contract.redis.connections import connect
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings

PATHS: Final = 1_000_000
IMAGES: Final = 100_000
# What is held by then is what the work needs.
SETTLED: Final = 10_000
SAMPLES: Final = 100
_MB: Final = 1e6


class Trace:
    """Resident memory of a process after so many images, in MB."""

    def __init__(self, member: Member, images: int) -> None:
        self._member = member
        self._pause = max(1, images // SAMPLES)
        self.images = 0
        self._taken: list[tuple[int, float]] = []

    def count(self, images: int) -> None:
        """Note that so many more are done, and look from time to time."""
        before, self.images = self.images, self.images + images
        if before // self._pause != self.images // self._pause:
            self._taken.append((self.images, self._member.resident_mb()))

    def figures(self) -> dict[str, float]:
        """Return what it held when it had settled, at most since then, and at the last look."""
        since = [mb for images, mb in self._taken if images >= SETTLED] or [self._taken[-1][1]]
        return {
            "images": self.images,
            "settled_mb": since[0],
            "most_mb": max(since),
            "last_mb": since[-1],
            "growth_mb": max(since) - since[0],
            "growth_share": max(since) / since[0] - 1,
        }


def producer(paths: int) -> dict[str, Any]:
    """Submit so many paths to a worker that answers; return the producer's memory and Redis's.

    Raises:
        SystemExit: the producer failed, or did not give a line for each path.
    """
    options = ["-m", "producer.cli", "submit", "-", "--broker"]
    labels = [word for label in SIX.labels for word in ("--label", label)]
    with tempfile.TemporaryDirectory() as directory, EmbeddedRedis() as server:
        names = Path(directory) / "names.txt"
        write_list(names, paths)
        with worker_at(server.url, str(HERE / "answering.py")), names.open("rb") as stream:
            began_s = time.perf_counter()
            process = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, *options, server.url, *labels],
                stdin=stream,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            trace = Trace(Member(process.pid), paths)
            for _ in process.stdout or ():
                trace.count(1)
            took_s = time.perf_counter() - began_s
        if process.wait() or trace.images != paths:
            reply = f"{process.returncode} after {trace.images} of {paths} lines"
            msg = f"the producer ended with {reply}"
            raise SystemExit(msg)
        redis_mb = connect(server.url).info("memory")["used_memory_peak"] / _MB
    return {**trace.figures(), "redis_peak_mb": redis_mb, "images_per_s": paths / took_s}


def worker(images: int) -> dict[str, Any]:
    """Tag so many small JPEGs; return the memory of the worker."""
    with tempfile.TemporaryDirectory() as directory, EmbeddedRedis() as server:
        paths = small_images(Path(directory), images)
        with (
            worker_at(server.url, str(HERE / "simulated.py"), "0") as member,
            open_connection(Settings(broker_url=SecretUrl(server.url))) as connection,
        ):
            trace = Trace(member, images)

            def take(records: Sequence[Record]) -> None:
                trace.count(len(records))

            tag(connection, paths, take=take)
    return trace.figures()


def main() -> None:
    """Run the benchmark as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--paths", type=int, default=PATHS, help="that the producer submits")
    parser.add_argument("--images", type=int, default=IMAGES, help="that the worker tags")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    figures = {"producer": producer(options.paths), "worker": worker(options.images)}
    hand_over(figures, options.json)


if __name__ == "__main__":
    main()
