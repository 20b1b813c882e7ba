"""Measure fast decoding against exact: its time on photographs, and what a model sees of it.

    python ops/bench/decoding.py [--photos DIR] [--model DIR|ID] [--rounds 5] [--json FILE]

CPU of an image in three ways, in turns on one thread: Pillow as people call it (open, convert,
resize with the model's filter), our exact decoding, and our fast one. Then the cosine between the
model's embeddings of fast and of exact decoding. Without `--model` it is a Chinese-CLIP of B/16's
size with random weights; without `--photos` the photographs are made up, of camera size.

The card of the bundled model has what fast decoding changes of its embeddings.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final

import numpy as np
import torch
from full_size import exported
from photos import find_photos
from PIL import Image
from tables import hand_over

from worker.artifact.manifest import Artifact, Preprocessing, open_artifact
from worker.bench.report import machine
from worker.engines.infer import infer
from worker.engines.torchscript import TorchScriptEngine
from worker.export.fast_decode import agreement
from worker.images.decode import decode, set_up

ROUNDS: Final = 5
_MAX_PIXELS: Final = 10**9
PILLOW, EXACT, FAST = "Pillow", "exact", "fast"


def ways(spec: Preprocessing) -> dict[str, Callable[[bytes], object]]:
    """Return the three ways to turn a file's bytes into pixels of the model's size."""
    fit = Image.Resampling[spec.interpolation.upper()]

    def pillow(data: bytes) -> object:
        with Image.open(BytesIO(data)) as image:
            return np.asarray(image.convert("RGB").resize((spec.width, spec.height), fit))

    def ours(data: bytes, *, fast: bool) -> object:
        return decode(data, spec, max_pixels=_MAX_PIXELS, fast=fast)

    return {
        PILLOW: pillow,
        EXACT: lambda data: ours(data, fast=False),
        FAST: lambda data: ours(data, fast=True),
    }


def cpu_ms(files: Sequence[bytes], spec: Preprocessing, rounds: int) -> dict[str, float]:
    """Return what an image costs in each way: the mean over the files of their medians."""
    found: dict[str, list[float]] = {name: [] for name in ways(spec)}
    for data in files:
        times: dict[str, list[float]] = {name: [] for name in found}
        for _ in range(rounds):
            for name, way in ways(spec).items():
                began_s = time.process_time()
                way(data)
                times[name].append(1000 * (time.process_time() - began_s))
        for name, taken in times.items():
            found[name].append(median(taken))
    return {name: fmean(taken) for name, taken in found.items()}


def measure(artifact: Artifact, files: Sequence[bytes], rounds: int) -> dict[str, Any]:
    """Return the times, their ratios to Pillow's, and the agreement of embeddings."""
    torch.set_num_threads(1)
    set_up(_MAX_PIXELS)
    spec = artifact.manifest.preprocessing
    took_ms = cpu_ms(files, spec, rounds)
    engine = TorchScriptEngine.load(artifact, "cpu")
    found = agreement(lambda pixels: infer(engine, pixels), spec, files)
    return {
        "cpu_ms": took_ms,
        "times_pillow": {name: took_ms[PILLOW] / ms for name, ms in took_ms.items()},
        "mean_cosine": found.mean,
        "worst_cosine": found.worst,
    }


def main() -> None:
    """Run the benchmark as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, metavar="DIR", help="photographs, else made up")
    parser.add_argument("--model", metavar="DIR|ID", help="a model in transformers' form")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        photos, what = find_photos(options.photos, Path(name))
        _, artifact = exported(options.model, "fp32", Path(name))
        files = [Path(photo).read_bytes() for photo in photos]
        figures = measure(open_artifact(artifact), files, options.rounds)
    hand_over({"photographs": what, "machine": machine(), **figures}, options.json)


if __name__ == "__main__":
    main()
