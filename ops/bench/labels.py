"""Measure what a large label set costs: for each image, and once for the set.

    python ops/bench/labels.py [--model ARTIFACT] [--labels N ...] [--json FILE]

Ranks random embeddings against sets of 6 to 10,000 labels; encodes each set, shares it through a
private Redis, and takes it from there as the next worker would. Without `--model` it is a small one
with random weights (small_model.py), so encoding a set costs less than with a real one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
from many_labels import labels
from small_model import small_artifact
from tables import hand_over

from worker.artifact.manifest import Artifact, open_artifact
from worker.contract.labels import LabelPack
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.redis.connections import connect
from worker.contract.scoring import Scale
from worker.labels.encoder import LabelEncoder
from worker.labels.label_sets import LabelSet
from worker.labels.matrix_store import RedisLabelMatrixStore
from worker.pipeline.rank import rank

SIZES: Final = (6, 100, 1_000, 10_000)
CHUNKS: Final = (1, 8, 64)
RUNS: Final = 30


def median_ms(step: Callable[[], Any], runs: int = RUNS) -> float:
    """Return the median time of a step that was run twice before."""
    times_s = []
    for _ in range(runs + 2):
        began_s = time.perf_counter()
        step()
        times_s.append(time.perf_counter() - began_s)
    return 1000 * median(times_s[2:])


def ranking(found: LabelSet, scale: Scale) -> dict[str, float]:
    """Return milliseconds an image, by images of the chunk."""
    dice = np.random.default_rng(0)
    times = {}
    for images in CHUNKS:
        rows_ND = dice.standard_normal((images, found.matrix_KD.shape[1])).astype(np.float32)
        rows_ND /= np.linalg.norm(rows_ND, axis=1, keepdims=True)

        def step(rows_ND: Any = rows_ND) -> object:
            return rank(rows_ND, found, scale, top_k=5, threshold=0.0)

        times[f"chunk of {images}, ms/image"] = round(median_ms(step) / images, 4)
    return times


def encoding(
    artifact: Artifact, pack: LabelPack, matrix_store: RedisLabelMatrixStore
) -> tuple[LabelSet, Any]:
    """Return the set, and the seconds that the first worker and the second one take for it."""
    seconds = []
    for _ in range(2):
        encoder = LabelEncoder(artifact, "cpu", matrix_store)
        began_s = time.perf_counter()
        found = encoder.encode(pack)
        seconds.append(round(time.perf_counter() - began_s, 3))
    return found, {"first worker, s": seconds[0], "second worker, s": seconds[1]}


def main() -> None:
    """Run the benchmark as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", metavar="ARTIFACT", help="of a model that reads any text")
    parser.add_argument("--labels", type=int, action="append", help="so many of them")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory() as name,
        EmbeddedRedis() as server,
        connect(server.url) as client,
    ):
        made = Path(name) / "artifact"
        artifact = open_artifact(options.model) if options.model else small_artifact(made)
        for count in options.labels or SIZES:
            found, seconds = encoding(
                artifact, LabelPack(labels(count)), RedisLabelMatrixStore(client)
            )
            rows.append({"labels": count} | ranking(found, artifact.manifest.scale) | seconds)
            print(rows[-1], file=sys.stderr, flush=True)
    hand_over({"model": artifact.id, "rows": rows}, options.json)


if __name__ == "__main__":
    main()
