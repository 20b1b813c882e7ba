"""Measure what a million records cost: to write in each format, to tag again, and to search.

    python ops/bench/records_io.py [--images 1000000] [--labels 1000] [--model ARTIFACT]
                                   [--json FILE]

The records are made up: five tags each, and an embedding where a format keeps one, a random unit
vector of the model's dimensions. Memory is the peak of the process that writes, in which the
records are made one by one. Tagging again and search are the commands as a user runs them, start
included. Without `--model` it is a small one with random weights (small_model.py), which is made
in another process: this one is to stay light.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from many_labels import labels as many_labels
from tables import hand_over, markdown

from producer.embeddings.text_encoder import Encoding
from producer.formats import FORMATS, open_sink, target_of
from worker.contract.labels import LabelPack
from worker.contract.messages import Record, Stamp, Tag, Timing
from worker.contract.text_embeddings import Encoded

# Of characters that the small model knows, too.
_QUERY: Final = "山水的狗"
_BLOCK: Final = 8192
_MB: Final = 1e6


def main() -> None:
    """Measure, or write one file and tell how it went."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--images", type=int, default=1_000_000)
    options.add_argument("--labels", type=int, default=1000)
    options.add_argument("--model", metavar="ARTIFACT", default="")
    options.add_argument("--json", type=Path)
    options.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--dim", type=int, help=argparse.SUPPRESS)
    asked = options.parse_args()
    if asked.write:
        print(json.dumps(_write(asked.write, asked.images, asked.dim, asked.model)))
        return
    with tempfile.TemporaryDirectory() as place:
        if not asked.model:
            asked.model = str(Path(place) / "model")
            maker = str(Path(__file__).with_name("small_model.py"))
            subprocess.run([sys.executable, maker, asked.model], check=True)  # noqa: S603 - ours
        rows = list(_measure(Path(place), asked))
    cells = [[row[0], f"{row[1]:.1f}", *(f"{figure:,.0f}" for figure in row[2:])] for row in rows]
    keys = ("what", "s", "images_per_s", "peak_mb", "file_mb")
    found = [dict(zip(keys, row, strict=True)) for row in rows]
    hand_over(found, asked.json, markdown(["", "s", "images/s", "peak MB", "file MB"], cells))


def _measure(place: Path, asked: Any) -> Iterator[tuple[str, float, float, float, float]]:
    """Yield of each thing that was done its name, seconds, rate, and sizes in MB."""
    found = _model(asked.model)
    script = [sys.executable, __file__, "--images", str(asked.images)]
    script += ["--dim", str(found.dim), "--model", found.model]
    for ending in (".jsonl", ".csv", ".parquet"):
        file = place / f"tags{ending}"
        done = subprocess.run([*script, "--write", str(file)], check=True, stdout=subprocess.PIPE)  # noqa: S603 - ours
        figures = json.loads(done.stdout)
        size = file.stat().st_size / _MB
        yield f"write {ending}", figures["s"], asked.images / figures["s"], figures["peak_mb"], size
    labels = place / "labels.txt"
    labels.write_text(
        "".join(f"{label}\n" for label in many_labels(asked.labels)), encoding="utf-8"
    )
    model = ["--model", asked.model]
    for ending in (".jsonl", ".parquet"):
        out = place / f"new{ending}"
        options = ["retag", f"tags{ending}", "--labels", str(labels), "--out", str(out), *model]
        took_s, peak_mb = _timed(place, options)
        size = out.stat().st_size / _MB
        yield f"retag {ending}", took_s, asked.images / took_s, peak_mb, size
        out.unlink()
    for ending in (".jsonl", ".parquet"):
        took_s, peak_mb = _timed(place, ["search", f"tags{ending}", _QUERY, *model])
        yield f"search {ending}", took_s, asked.images / took_s, peak_mb, 0.0


def _timed(place: Path, options: list[str]) -> tuple[float, float]:
    """Run a verb; return seconds, and the most memory of any of its processes, in MB."""
    began_s = time.monotonic()
    process = subprocess.Popen(  # noqa: S603 - ours
        [sys.executable, "-P", "-m", "producer.cli", *options],
        cwd=place,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    message = process.stderr.read() if process.stderr else b""
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(message.decode())
    return time.monotonic() - began_s, usage.ru_maxrss / 1000


def _model(place: str) -> Encoded:
    """Return what a model says of itself. It is asked in another process: this loads no torch."""
    with Encoding(LabelPack((_QUERY,)), place) as encoding:
        return encoding.result().encoded


def _write(file: Path, images: int, dim: int, model: str) -> dict[str, float]:
    target = target_of(file, None)
    dim = dim if FORMATS[target.format].embeddings else 0
    began_s = time.monotonic()
    with open_sink(target) as sink:
        for record in _records(images, dim, model):
            sink.write(record)
    took_s = time.monotonic() - began_s
    return {"s": took_s, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000}


def _records(images: int, dim: int, model: str) -> Iterator[Record]:
    chance = np.random.default_rng(0)
    tags = tuple(Tag(f"标签{n}", 0.5 / (n + 1)) for n in range(5))
    for number in range(images):
        if number % _BLOCK == 0 and dim:
            rows_ND = chance.standard_normal((_BLOCK, dim), np.float32)
            rows_ND /= np.linalg.norm(rows_ND, axis=1, keepdims=True)
            halves_ND = rows_ND.astype("<f2")
        kept = base64.b64encode(halves_ND[number % _BLOCK].tobytes()).decode() if dim else None
        yield Record(
            path=f"/photos/{number // 1000}/IMG_{number}.jpg",
            status="ok",
            tags=tags,
            error=None,
            timing=Timing(queue_ms=1.5, read_ms=0.2, decode_ms=20.0, infer_ms=float(number % 40)),
            batch_size=4,
            worker="worker-1@host",
            device="cpu",
            model=model,
            labels="0123456789abcdef",
            file=Stamp(number, 1_700_000_000.0 + number),
            embedding=kept,
        )


if __name__ == "__main__":
    main()
