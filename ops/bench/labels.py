"""Measure what a large label set costs: for each image, and once for the set.

    python ops/bench/labels.py [--model DIR|ID] [--labels N ...] [--json FILE]

Ranks random embeddings against sets of 6 to 10,000 labels; encodes each set, shares it through a
private Redis, and takes it from there as the next worker would. Without `--model` it is a
Chinese-CLIP of B/16's size with random weights: the bundled model knows no 10,000 labels.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
from full_size import exported
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
CHARACTERS: Final = "这是一张的照片猫狗山水火车鱼鸟花树瓜果红黄蓝白黑大小"
RUNS: Final = 30


def labels(count: int) -> LabelPack:
    """Return so many different words of two to four characters."""
    options = ("".join(word) for n in (2, 3, 4) for word in itertools.product(CHARACTERS, repeat=n))
    return LabelPack(labels=tuple(itertools.islice(options, count)))


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
    parser.add_argument("--model", metavar="DIR|ID", help="a model in transformers' form")
    parser.add_argument("--labels", type=int, action="append", help="so many of them")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory() as name,
        EmbeddedRedis() as server,
        connect(server.url) as client,
    ):
        artifact = open_artifact(exported(options.model, "fp32", Path(name))[1])
        for count in options.labels or SIZES:
            found, seconds = encoding(artifact, labels(count), RedisLabelMatrixStore(client))
            rows.append({"labels": count} | ranking(found, artifact.manifest.scale) | seconds)
            print(rows[-1], file=sys.stderr, flush=True)
    hand_over({"model": artifact.id, "rows": rows}, options.json)


if __name__ == "__main__":
    main()
