"""Measure what a large label set costs: for each image, and once for the set.

    python ops/bench/labels.py [--model ARTIFACT] [--json FILE]

Ranks random embeddings against sets of 6 to 10,000 labels; encodes each set, shares it through a
private Redis, and takes it from there as the next worker would.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

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
    """Print a table; write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="", help="artifact; the bundled one by default")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    artifact = open_artifact(options.model)
    rows: list[dict[str, Any]] = []
    with EmbeddedRedis() as server, connect(server.url) as client:
        for count in SIZES:
            found, seconds = encoding(artifact, labels(count), RedisLabelMatrixStore(client))
            rows.append({"labels": count} | ranking(found, artifact.manifest.scale) | seconds)
            print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    if options.json:
        report = {"model": artifact.id, "rows": rows}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
