"""Tag the same photographs side by side: this system, a bare loop, transformers, naive Celery.

    python ops/bench/compare.py [--photos DIR] [--model DIR|ID] [--precision auto] [--device cpu]
                                [--workers 1] [--json FILE] [--markdown FILE] [--chart FILE]

All four take turns over the same files, each turn about `--seconds` long, and stay loaded between
turns: whatever the machine's speed does, it does to all. Without `--model` it is a Chinese-CLIP of
B/16's size with random weights, into which the outliers of trained ones were put unless `--weights
random` says otherwise; without `--photos` the photographs are made up, of camera size.
Rates are medians of the turns, ratios medians of the rounds' ratios, beside the lowest and the
highest of them. CPU of an image is that of all processes: of the worker, Redis and the producer
(this process). Memory is what is held at the end; of pages that several processes share, each has a
share. All run on the same device.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final, NamedTuple

import baselines
from baselines import BATCH, CORES, LOOP, OURS, PIPELINE, Contender, Subject
from batching import batches, fill
from charts import Bar, bars
from full_size import exported
from photos import find_photos
from tables import hand_over, markdown

from worker.artifact.manifest import open_artifact
from worker.bench.report import machine
from worker.contract.messages import Record

SECONDS: Final = 20.0
_WEIGHTS: Final = {"outliers": "random weights with outliers", "random": "random weights"}
ROUNDS: Final = 3
_STARTS: Final = (baselines.loop, baselines.pipeline, baselines.naive, baselines.ours)
# Enough that each child of the usual worker has loaded its model.
_REHEARSAL: Final = 4 * CORES
_STAGES: Final = ("read_ms", "decode_ms", "batch_wait_ms", "infer_ms")


class Turn(NamedTuple):
    """What a contender did once: images a second, CPU of an image by process, and its records."""

    images: int
    images_per_s: float
    cpu_ms: dict[str, float]
    records: Sequence[Record]


def take_turn(contender: Contender, photos: Sequence[str], images: int) -> Turn:
    """Let it tag so many images, the photographs over and over.

    Raises:
        SystemExit: an image could not be tagged.
    """
    paths = list(islice(cycle(photos), images))
    before_s, began_s = contender.cpu_s(), time.perf_counter()
    records = contender.tag(paths)
    took_s = time.perf_counter() - began_s
    spent_s = contender.cpu_s()
    for record in records:
        if record.error is not None:
            msg = f"{record.path}: {record.error.message}"
            raise SystemExit(msg)
    cpu_ms = {name: 1000 * (now_s - before_s[name]) / images for name, now_s in spent_s.items()}
    return Turn(images, images / took_s, cpu_ms, records)


def measure(subject: Subject, photos: Sequence[str], seconds: float, rounds: int) -> dict[str, Any]:
    """Return the figures of each contender, and the stages and batches of our worker."""
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        # Most of a start is one thread's work.
        starts = [start(subject) for start in _STARTS]
        field = list(pool.map(stack.enter_context, starts))
        _echo("all are ready")
        counts = {one.name: _count(one, photos, seconds) for one in field}
        turns: dict[str, list[Turn]] = {one.name: [] for one in field}
        for number in range(1, rounds + 1):
            for one in field:
                turns[one.name].append(take_turn(one, photos, counts[one.name]))
                rate = turns[one.name][-1].images_per_s
                _echo(f"round {number} of {rounds}: {one.name}, {rate:.1f} images/s")
        memory = {
            one.name: {"held_mb": one.member.held_mb(), "gpu_mb": one.member.gpu_mb()}
            for one in field
        }
    return {
        "contenders": {
            name: _figures(found, turns) | memory[name] for name, found in turns.items()
        },
        "worker": _inside([record for turn in turns[OURS] for record in turn.records]),
    }


def _count(contender: Contender, photos: Sequence[str], seconds: float) -> int:
    """Return how many images it tags in that time, in whole batches; it has warmed up then."""
    take_turn(contender, photos, _REHEARSAL)
    rate = take_turn(contender, photos, _REHEARSAL).images_per_s
    return max(_REHEARSAL, BATCH * round(rate * seconds / BATCH))


def _figures(turns: list[Turn], of_all: dict[str, list[Turn]]) -> dict[str, Any]:
    rates = [turn.images_per_s for turn in turns]
    return {
        "images": sum(turn.images for turn in turns),
        "images_per_s": median(rates),
        "slowest_and_fastest": [min(rates), max(rates)],
        **_ratio("times_pipeline", turns, of_all[PIPELINE]),
        **_ratio("of_loop", turns, of_all[LOOP]),
        "cpu_ms": {name: median(turn.cpu_ms[name] for turn in turns) for name in turns[0].cpu_ms},
    }


def _ratio(name: str, turns: list[Turn], others: list[Turn]) -> dict[str, Any]:
    """Return the median of the rounds' ratios, and the lowest and the highest of them."""
    pairs = zip(turns, others, strict=True)
    found = [one.images_per_s / other.images_per_s for one, other in pairs]
    return {name: median(found), f"{name}_range": [min(found), max(found)]}


def _inside(records: Sequence[Record]) -> dict[str, Any]:
    """Return the mean time of each stage, and how many batches of each size there were."""
    return {
        "stages_ms": {
            stage: fmean(getattr(record.timing, stage) or 0.0 for record in records)
            for stage in _STAGES
        },
        "batches": batches(records),
        "mean_batch": fill(records),
    }


def table(figures: dict[str, Any]) -> str:
    """Return the contenders as a person reads them."""
    heads = ["", "images/s", "times the pipeline", "of the loop", "CPU ms/image", "MB"]
    on_gpu = figures["device"] != "cpu"
    heads += ["GPU MB"] * on_gpu
    rows = [
        [
            name,
            f"{found['images_per_s']:.2f}",
            f"{found['times_pipeline']:.2f} ({_range(found['times_pipeline_range'], 2)})",
            f"{found['of_loop']:.3f} ({_range(found['of_loop_range'], 3)})",
            " + ".join(f"{ms:.2f}" if ms < 1 else f"{ms:.0f}" for ms in found["cpu_ms"].values()),
            f"{found['held_mb']:,.0f}",
            *([f"{found['gpu_mb']:,.0f}"] * on_gpu),
        ]
        for name, found in figures["contenders"].items()
    ]
    worker = figures["worker"]
    stages = ", ".join(
        f"{stage.removesuffix('_ms').replace('_', ' ')} {ms:.1f} ms"
        for stage, ms in worker["stages_ms"].items()
    )
    sizes = ", ".join(f"{count} of {size}" for size, count in worker["batches"].items())
    return (
        f"{markdown(heads, rows)}\n\n"
        f"CPU: worker + Redis + producer. {figures['workers']} of our workers, mean of an image: "
        f"{stages}. "
        f"Batches: {sizes}; {worker['mean_batch']:.2f} on average.\n\n{_setting(figures)}\n"
    )


def _range(ratios: Sequence[float], digits: int) -> str:
    return "-".join(f"{ratio:.{digits}f}" for ratio in ratios)


def _setting(figures: dict[str, Any]) -> str:
    found = figures["machine"]
    return (
        f"{figures['model']} in {figures['precision']}, {figures['photographs']}; "
        f"{_place(figures)}, torch {found['torch']}; "
        f"{figures['rounds']} rounds of turns of about {figures['seconds']:g} s."
    )


def _place(figures: dict[str, Any]) -> str:
    found = figures["machine"]
    gpu = "" if figures["device"] == "cpu" else f"{found['gpu']}, "
    return f"{gpu}{found['processor']}, {found['cores']} cores"


def chart(figures: dict[str, Any], file: Path) -> None:
    """Draw images a second, a bar a contender."""
    rows = [
        Bar(
            name,
            found["images_per_s"],
            f"{found['images_per_s']:.1f}  ({found['times_pipeline']:.1f}x)",
            name == OURS,
        )
        for name, found in figures["contenders"].items()
    ]
    title = f"{figures['model']}, {figures['photographs']}\n{_place(figures)}"
    bars(rows, title, "images a second, and how many times the pipeline's", file)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Make or find model and photographs, measure, and return the figures with their setting."""
    with tempfile.TemporaryDirectory(prefix="wanwu-compare-") as name:
        photos, what = find_photos(options.photos, Path(name))
        directory, artifact = exported(
            *(options.model, options.precision, Path(name), options.device),
            outliers=options.weights == "outliers",
        )
        manifest = open_artifact(artifact).manifest
        subject = Subject(artifact, directory, options.device, options.workers)
        figures = measure(subject, photos, options.seconds, options.rounds)
    return {
        "model": options.model or f"Chinese-CLIP B/16, {_WEIGHTS[options.weights]}",
        "agreement": manifest.parity,
        "device": options.device,
        "workers": options.workers,
        "precision": manifest.precision,
        "fast_decode": manifest.decodes_fast("auto"),
        "photographs": what,
        "machine": machine(),
        "seconds": options.seconds,
        "rounds": options.rounds,
        **figures,
    }


def _echo(options: str) -> None:
    print(options, file=sys.stderr, flush=True)


def main() -> None:
    """Run the benchmark as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, metavar="DIR", help="photographs, else made up")
    parser.add_argument("--model", metavar="DIR|ID", help="a Chinese-CLIP in transformers' form")
    parser.add_argument("--weights", choices=_WEIGHTS, default="outliers", help="without a model")
    parser.add_argument("--precision", default="auto", help="of our artifact")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:n")
    parser.add_argument("--workers", type=int, default=1, help="of ours")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of a turn, about")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    parser.add_argument("--chart", type=Path, help="draw the rates as PNG")
    options = parser.parse_args()
    figures = run(options)
    hand_over(figures, options.json, table(figures))
    if options.markdown:
        options.markdown.write_text(table(figures), encoding="utf-8")
    if options.chart:
        chart(figures, options.chart)


if __name__ == "__main__":
    main()
