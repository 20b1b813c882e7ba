"""Measure batch fill under backlog, and what a lone image pays.

    python ops/bench/batching.py [--json FILE]

Starts a private Redis and one worker with the bundled model, sends a backlog of small JPEGs, then
single images to the idle worker, and reads the figures from the records' own timings.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

from client import tagged
from PIL import Image
from tables import hand_over

from producer.backend.connection import open_connection
from worker.contract.messages import Record
from worker.contract.settings import Settings

SIZE: Final = (640, 480)
# Until then the worker is idle again.
PAUSE_S: Final = 0.1


def fill(records: Sequence[Record]) -> float:
    """Return the mean batch size: an image in a batch of 4 stands for a quarter of it."""
    return len(records) / sum(1 / record.batch_size for record in records if record.batch_size)


def batches(records: Sequence[Record]) -> dict[int, int]:
    """Return how many batches of each size the images were in."""
    images = Counter(record.batch_size for record in records if record.batch_size)
    return {size: round(count / size) for size, count in sorted(images.items())}


def overhead_ms(record: Record) -> float:
    """Return what an image spent outside of read, decode and inference."""
    timing = record.timing
    parts = (timing.total_ms, timing.read_ms, timing.decode_ms, timing.infer_ms)
    total, *work = (part or 0.0 for part in parts)
    return total - sum(work)


def measure(images: int, singles: int) -> dict[str, Any]:
    """Run the benchmark and return its figures."""
    with (
        tempfile.TemporaryDirectory() as directory,
        open_connection(Settings(), embedded=True) as connection,
    ):
        buffer = io.BytesIO()
        Image.effect_mandelbrot(SIZE, (-2, -1.2, 1, 1.2), 60).convert("RGB").save(buffer, "JPEG")
        paths = [Path(directory) / f"{number}.jpg" for number in range(images)]
        for path in paths:
            path.write_bytes(buffer.getvalue())
        names = [str(path) for path in paths]
        tagged(connection, names[:64])
        began_s = time.monotonic()
        policy = tagged(connection, names)
        elapsed_s = time.monotonic() - began_s
        one_by_one = tagged(connection, names, 1)
        lone = []
        for _ in range(singles):
            lone += tagged(connection, names[:1])
            time.sleep(PAUSE_S)
    extra_ms = sorted(overhead_ms(record) for record in lone)
    return {
        "backlog of images": images,
        "images a second": round(images / elapsed_s, 1),
        "mean batch": round(fill(policy), 3),
        "batches by size": batches(policy),
        "mean batch, chunks of 1": round(fill(one_by_one), 3),
        "batches by size, chunks of 1": batches(one_by_one),
        "lone images": singles,
        "lone image, ms outside read, decode and inference, median": round(median(extra_ms), 2),
        "the same, 90th percentile": round(quantiles(extra_ms, n=10)[-1], 2),
        "the same, 99th percentile": round(quantiles(extra_ms, n=100)[-1], 2),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--singles", type=int, default=300)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures = measure(options.images, options.singles)
    hand_over(figures, options.json)
