"""Measure the queue's tax: CPU of the worker an image beyond reading, decoding and inference.

    python ops/bench/tax.py [--images 20000] [--json FILE]

The model costs nothing and the images are small, so that next to nothing is left beside the queue:
messages, threads, batches, tags, results. What a loop without all that spends on the same images, in
the same run, is taken off. The usual Celery worker, a task an image, is measured beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from PIL import Image

HERE: Final = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "contenders"))

from bare import Bare  # noqa: E402 - contenders run as programs, and here as modules
from crew import CONTENDERS, Member, crew  # noqa: E402
from drive import SIX, tag  # noqa: E402
from simulated import SimulatedEngine  # noqa: E402

from producer.desk import Desk, open_desk  # noqa: E402
from worker.contract.embedded import EmbeddedRedis  # noqa: E402
from worker.contract.settings import Settings  # noqa: E402
from worker.models.artifact import open_artifact  # noqa: E402
from worker.models.labels import LabelEncoder  # noqa: E402

SIZE: Final = (64, 64)
WARM_UP: Final = 800
CHUNKS: Final = (1, 4, 8, 16, 32, 64)


def small_images(directory: Path, count: int) -> list[str]:
    """Return so many paths of small JPEGs; a few files, over and over."""
    files = [directory / f"{number}.jpg" for number in range(16)]
    for number, file in enumerate(files):
        picture = Image.effect_mandelbrot(SIZE, (-2, -1.2, 1, 1.2), 20 + number)
        picture.convert("RGB").save(file)
    return [str(files[number % len(files)]) for number in range(count)]


def worker_ms(desk: Desk, member: Member, paths: list[str], chunk_images: int) -> dict[str, float]:
    """Return CPU and wall clock an image of one job."""
    began_s, cpu_s = time.perf_counter(), member.cpu_s()
    tag(desk, paths, chunk_images=chunk_images, take=len)
    wall_s, cpu_s = time.perf_counter() - began_s, member.cpu_s() - cpu_s
    return {"cpu_ms": 1000 * cpu_s / len(paths), "images_per_s": len(paths) / wall_s}


def measure(images: int) -> dict[str, Any]:
    artifact = open_artifact()
    labels = LabelEncoder(artifact, "cpu").encode(SIX)
    engine = SimulatedEngine(artifact.manifest.embedding_dim, 0.0)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory, EmbeddedRedis() as server:
        paths = small_images(Path(directory), images)
        bare = Bare(Settings(), artifact, engine, labels)
        bare.one_by_one(paths[:WARM_UP])
        floor = bare.one_by_one(paths)
        floor_ms = 1000 * floor.cpu_s / images
        found["bare"] = {"cpu_ms": floor_ms}
        settings = Settings(broker_url=server.url)
        with (
            crew(server.url, 1, [str(CONTENDERS / "simulated.py"), "0"]) as (member,),
            open_desk(settings) as desk,
        ):
            tag(desk, paths[:WARM_UP], take=len)
            for chunk in CHUNKS:
                n = images if chunk >= 8 else images // 4
                row = worker_ms(desk, member, paths[:n], chunk)
                row["tax_ms"] = row["cpu_ms"] - floor_ms
                found[str(chunk)] = row
                print(chunk, row, flush=True)
    return found


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1])), indent=1))
