"""Measure how many workers the queue feeds: 1 to 16 with a simulated device, on this machine.

    python ops/bench/scaling.py [--latency 8 --latency 64] [--workers N ...] [--json FILE]

The device takes a fixed time for a batch of up to 4 and no CPU, as a GPU of its own would. All else
is real: processes, Redis, messages, decoding of small JPEGs, results. Workers, Redis and producer
share this machine, so its cores end what it can show. The ceiling is what they can pay for at most:
the cores over the CPU that an image costs all of them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import redis
from client import tag
from tables import hand_over, markdown
from tiny_images import small_images
from worker_pool import HERE, Member, workers_at

from producer.backend.connection import Connection, open_connection
from worker.contract.cpus import usable_cpus
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.redis.connections import connect
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings

LATENCIES_MS: Final = (8.0, 64.0)
WORKERS: Final = (1, 2, 4, 8, 16)
SECONDS: Final = 10.0
_REHEARSAL_SHARE: Final = 5


class Bill:
    """CPU spent by workers, Redis and the producer (this process) since it was made."""

    def __init__(self, members: Sequence[Member], client: redis.Redis) -> None:
        self._members = members
        self._client = client
        self._began_s = self._spent_s()

    def per_image_ms(self, images: int) -> dict[str, float]:
        """Return what an image has cost each."""
        return {
            name: 1000 * (now_s - self._began_s[name]) / images
            for name, now_s in self._spent_s().items()
        }

    def _spent_s(self) -> dict[str, float]:
        info = self._client.info("cpu")
        return {
            "workers": sum(member.cpu_s() for member in self._members),
            "redis": info["used_cpu_sys"] + info["used_cpu_user"],
            "producer": time.process_time(),
        }


def run(
    connection: Connection, members: Sequence[Member], client: redis.Redis, paths: list[str]
) -> dict[str, Any]:
    """Tag all paths; return the rate, the CPU of an image, and the rate that the cores can pay."""
    tag(connection, paths[: len(paths) // _REHEARSAL_SHARE], take=len)
    bill, began_s = Bill(members, client), time.perf_counter()
    tag(connection, paths, take=len)
    rate = len(paths) / (time.perf_counter() - began_s)
    cpu_ms = bill.per_image_ms(len(paths))
    cores = usable_cpus().usable
    return {
        "images_per_s": rate,
        "cpu_ms": cpu_ms,
        "cores_used": rate * sum(cpu_ms.values()) / 1000,
        "ceiling_per_s": 1000 * cores / sum(cpu_ms.values()),
    }


def measure(
    latencies_ms: Sequence[float] = LATENCIES_MS,
    workers: Sequence[int] = WORKERS,
    seconds: float = SECONDS,
) -> list[dict[str, Any]]:
    """Return a row for each latency and number of workers; jobs last `seconds` if fed well."""
    rows = []
    with tempfile.TemporaryDirectory() as directory, EmbeddedRedis() as server:
        settings, client = Settings(broker_url=SecretUrl(server.url)), connect(server.url)
        for latency_ms in latencies_ms:
            device_per_s = 1000 * settings.largest_batch / latency_ms
            for count in workers:
                paths = small_images(Path(directory), int(device_per_s * count * seconds))
                script = str(HERE / "simulated.py")
                with (
                    workers_at(server.url, count, script, str(latency_ms)) as members,
                    open_connection(settings) as connection,
                ):
                    row = run(connection, members, client, paths)
                reply = {"latency_ms": latency_ms, "workers": count, "images": len(paths)}
                rows.append(
                    reply | row | {"of_devices": row["images_per_s"] / device_per_s / count}
                )
    return [row | {"times_one": _times_one(row, rows)} for row in rows]


def _times_one(row: dict[str, Any], rows: list[dict[str, Any]]) -> float:
    first = next(one for one in rows if one["latency_ms"] == row["latency_ms"])
    ratio: float = row["images_per_s"] / first["images_per_s"] * first["workers"]
    return ratio


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a person reads them."""
    heads = ("ms a batch", "workers", "images/s", "times one", "of the devices", "ceiling/s")
    costs = ("cores used", "worker CPU ms/image", "Redis", "producer")
    return markdown(
        [*heads, *costs],
        [
            [
                f"{row['latency_ms']:g}",
                str(row["workers"]),
                f"{row['images_per_s']:,.0f}",
                f"{row['times_one']:.2f}",
                f"{row['of_devices']:.0%}",
                f"{row['ceiling_per_s']:,.0f}",
                f"{row['cores_used']:.2f}",
                *(f"{row['cpu_ms'][name]:.2f}" for name in ("workers", "redis", "producer")),
            ]
            for row in rows
        ],
    )


def main() -> None:
    """Run the benchmark as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", type=float, action="append", help="ms a batch")
    parser.add_argument("--workers", type=int, action="append", help="so many of them")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="of each job, if all goes well"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    rows = measure(options.latency or LATENCIES_MS, options.workers or WORKERS, options.seconds)
    hand_over(rows, options.json, table(rows))


if __name__ == "__main__":
    main()
