"""Measure the queue's tax: CPU of the worker an image beyond reading, decoding and inference.

    python ops/bench/overhead.py [--images 4000] [--rounds 5] [--chunk N ...] [--json FILE]

The model costs nothing and the images are small, so that next to nothing is left beside the queue:
messages, threads, batches, tags, results. What a loop without all that spends on the same images,
in the same run, is taken off. The usual Celery worker, a task an image, is measured beside it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from celery import Celery
from client import SIX, tag
from loop import Bare
from PIL import Image
from simulated import SimulatedEngine
from tables import hand_over
from tiny_images import small_images
from worker_pool import HERE, Member, worker_at

from producer.backend.connection import Connection, open_connection
from worker.artifact.manifest import open_artifact
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings
from worker.labels.encoder import LabelEncoder

WARM_UP: Final = 800
CHUNKS: Final = (1, 8, 16, 32, 64)
# As `producer submit` has them when it is told nothing.
GROWING: Final = None


def spent_ms(
    connection: Connection, member: Member, paths: list[str], chunk_images: int | None
) -> dict[str, float]:
    """Return what an image of a job costs the worker, and how fast they came back."""
    began_s, cpu_s = time.perf_counter(), member.cpu_s()
    tag(connection, paths, chunk_images=chunk_images, take=len)
    wall_s, cpu_s = time.perf_counter() - began_s, member.cpu_s() - cpu_s
    return {"cpu_ms": 1000 * cpu_s / len(paths), "images_per_s": len(paths) / wall_s}


def naive_ms(url: str, paths: list[str]) -> dict[str, float]:
    """Return the same of the usual Celery worker, whose tasks open and decode an image."""
    argv = ["-m", "celery", "--app", "naive", "--workdir", str(HERE)]
    argv += ["worker", "--pool", "prefork", "--concurrency", "2", "--loglevel", "WARNING"]
    app = Celery("naive", broker=url, backend=url)
    with worker_at(url, *argv, app=app) as member:
        task = app.signature("naive.tag")
        for warm_up in (paths[: WARM_UP // 4], paths):
            began_s, cpu_s = time.perf_counter(), member.cpu_s()
            waiting = [task.clone((path, list(SIX.labels))).delay() for path in warm_up]
            for one in waiting:
                one.get()
            wall_s, cpu_s = time.perf_counter() - began_s, member.cpu_s() - cpu_s
    began_s = time.process_time()
    for path in paths:
        with Image.open(path) as image:
            image.convert("RGB")
    decode_ms = 1000 * (time.process_time() - began_s) / len(paths)
    cpu_ms = 1000 * cpu_s / len(paths)
    return {
        "cpu_ms": cpu_ms,
        "bare_ms": decode_ms,
        "tax_ms": cpu_ms - decode_ms,
        "images_per_s": len(paths) / wall_s,
    }


def measure(images: int, rounds: int, chunks: Sequence[int] = CHUNKS) -> dict[str, Any]:
    """Return the medians of the rounds; loop and worker take turns, since machines change speed."""
    artifact = open_artifact()
    labels = LabelEncoder(artifact, "cpu").encode(SIX)
    # As in the worker: the decode threads of the loop have the same work and the same company.
    torch.set_num_threads(1)
    engine = SimulatedEngine(artifact.manifest.embedding_dim, 0.0)
    bare: dict[str, list[float]] = {"one thread": [], "threads": []}
    ours: dict[int | None, list[dict[str, float]]] = {chunk: [] for chunk in (GROWING, *chunks)}
    with tempfile.TemporaryDirectory() as directory, EmbeddedRedis() as server:
        paths = small_images(Path(directory), images)
        loop = Bare(Settings(), artifact, engine, labels)
        with (
            worker_at(server.url, str(HERE / "simulated.py"), "0") as member,
            open_connection(Settings(broker_url=SecretUrl(server.url))) as connection,
        ):
            loop.threaded(paths[:WARM_UP])
            tag(connection, paths[:WARM_UP], take=len)
            for _ in range(rounds):
                bare["one thread"].append(1000 * loop.one_by_one(paths) / images)
                for chunk, rows in ours.items():
                    floor_ms = 1000 * loop.threaded(paths) / images
                    bare["threads"].append(floor_ms)
                    row = spent_ms(connection, member, paths, chunk)
                    rows.append(row | {"bare_ms": floor_ms, "tax_ms": row["cpu_ms"] - floor_ms})
        naive = naive_ms(server.url, paths[: images // 4])
    return {
        "images": images,
        "rounds": rounds,
        "bare_cpu_ms": {name: median(found) for name, found in bare.items()},
        "chunks": {
            chunk or "default": {name: median(row[name] for row in rows) for name in rows[0]}
            for chunk, rows in ours.items()
        },
        "naive": naive,
    }


def main() -> None:
    """Run the benchmark as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4000, help="of each job")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--chunk", type=int, action="append", help="of so many images")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    hand_over(measure(options.images, options.rounds, options.chunk or CHUNKS), options.json)


if __name__ == "__main__":
    main()
