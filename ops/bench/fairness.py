"""Measure how jobs share a worker: small ones while a large one runs, against each alone.

    python ops/bench/fairness.py [--large 20000] [--small 50] [--jobs 10] [--json FILE]

The model takes the same time for each batch, whatever it holds, so that the machine is idle beside
it. The small jobs come one after the other, at even distances.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any, Final

from client import tag
from tables import hand_over
from tiny_images import small_images
from worker_pool import HERE, worker_at

from producer.backend.connection import Connection, open_connection
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings

WARM_UP: Final = 400
ALONE_ROUNDS: Final = 5


def seconds(connection: Connection, paths: list[str]) -> float:
    """Return how long a job takes, from its beginning to its last record."""
    began_s = time.perf_counter()
    tag(connection, paths, take=len)
    return time.perf_counter() - began_s


def measure(large: int, small: int, jobs: int, batch_ms: float) -> dict[str, Any]:
    """Return the times alone and together, and their ratios."""
    with tempfile.TemporaryDirectory() as directory, EmbeddedRedis() as server:
        paths = small_images(Path(directory), max(large, small, WARM_UP))
        settings = Settings(broker_url=SecretUrl(server.url))
        with (
            worker_at(server.url, str(HERE / "simulated.py"), str(batch_ms)),
            open_connection(settings) as connection,
            open_connection(settings) as other,
        ):
            tag(connection, paths[:WARM_UP], take=len)
            alone_s = median(seconds(connection, paths[:small]) for _ in range(ALONE_ROUNDS))
            large_s = seconds(connection, paths[:large])
            together: list[float] = []
            running = threading.Thread(
                target=lambda: together.append(seconds(other, paths[:large]))
            )
            running.start()
            beside = []
            for _ in range(jobs):
                time.sleep(large_s / (jobs + 1))
                beside.append(seconds(connection, paths[:small]))
            running.join()
    extra = (together[0] - large_s) / large_s
    return {
        "large": {"images": large, "alone_s": large_s, "together_s": together[0], "later": extra},
        "small": {
            "images": small,
            "jobs": jobs,
            "alone_s": alone_s,
            "median_s": median(beside),
            "longest_s": max(beside),
            "times_alone": [one / alone_s for one in beside],
        },
        "images_more": jobs * small / large,
    }


def main() -> None:
    """Run the benchmark as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", type=int, default=20_000, help="images of the large job")
    parser.add_argument("--small", type=int, default=50, help="images of each small job")
    parser.add_argument("--jobs", type=int, default=10, help="small jobs")
    parser.add_argument("--batch-ms", type=float, default=16.0, help="of the model")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    found = measure(options.large, options.small, options.jobs, options.batch_ms)
    hand_over(found, options.json)


if __name__ == "__main__":
    main()
