"""Decode the same photographs on threads and in processes, in turns: rates, CPU, and the lock.

    python ops/bench/decode_processes.py [--photos DIR] [--decoders N ...] [--seconds 5]
                                            [--rounds 5] [--json FILE]

As a worker decodes, without the queue and without a model. For each number of decoders: images a
second, CPU of an image in all processes, and what share of the interpreter a thread of the worker
still gets meanwhile, compared with one that is alone. Without `--photos` the photographs are made
up, of camera size.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any, Final

import msgspec
import psutil
from photos import find_photos
from tables import hand_over

from worker.artifact.manifest import open_artifact
from worker.bench.report import machine
from worker.contract.settings import Settings
from worker.images.decoder import Decoder, DecodeRequest, Done
from worker.images.open_decoder import open_decoder

KINDS: Final = ("threads", "processes")
DECODERS: Final = (2,)
_CHUNK: Final = 8
# As many a decoder as a worker holds.
_HELD: Final = 4
_PATIENCE_S: Final = 60.0
_NAP_S: Final = 0.002
_STEPS: Final = 2_000


class Meter:
    """A thread of Python's that works in small steps, and counts them."""

    def __init__(self) -> None:
        self._is_over = False
        self._steps = 0
        self._thread = threading.Thread(target=self._work, daemon=True)

    def _work(self) -> None:
        while not self._is_over:
            began_s = time.perf_counter()
            for _ in range(_STEPS):
                pass
            self._steps += 1
            # It gives way as the worker's own threads do, which mostly wait.
            time.sleep(max(_NAP_S, time.perf_counter() - began_s))

    @contextmanager
    def counting(self) -> Iterator[list[float]]:
        """Put steps a second into the list that is yielded."""
        found: list[float] = []
        self._thread.start()
        began_s = time.perf_counter()
        yield found
        self._is_over = True
        self._thread.join()
        found.append(self._steps / (time.perf_counter() - began_s))


def decode_all(decoder: Decoder, paths: Sequence[str], seconds: float, held: int) -> float:
    """Decode for so many seconds, at most `held` images at once; return images a second."""
    free, done, failed = threading.Semaphore(held), 0, False

    def count(one: Done) -> None:
        nonlocal done, failed
        failed = failed or one.error is not None
        done += 1
        free.release()

    def take() -> None:
        if not free.acquire(timeout=_PATIENCE_S) or failed:
            msg = "images cannot be decoded"
            raise SystemExit(msg)

    source, began_s = cycle(os.fsencode(path) for path in paths), time.perf_counter()
    while time.perf_counter() < began_s + seconds:
        requests = [DecodeRequest(count, path=path) for path in islice(source, min(_CHUNK, held))]
        for _ in requests:
            take()
        decoder.submit(requests)
    for _ in range(held):
        take()
    return done / (time.perf_counter() - began_s)


def measure(paths: Sequence[str], decoders: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Return the figures of both kinds; they take turns."""
    settings = Settings(image_roots=("/",), decode_threads=decoders)
    manifest = open_artifact().manifest
    open_ones = {
        kind: open_decoder(msgspec.structs.replace(settings, decoder=kind), manifest, lambda: None)
        for kind in KINDS
    }
    for one in open_ones.values():
        one.launch()
        one.start()
    alone = _steps_alone(seconds / 2)
    rows: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind, one in open_ones.items():
            rows[kind].append(_turn(one, paths, seconds, decoders * _HELD, alone))
    for one in open_ones.values():
        one.stop()
    return {
        kind: {name: median(row[name] for row in found) for name in found[0]}
        for kind, found in rows.items()
    }


def _turn(
    decoder: Decoder, paths: Sequence[str], seconds: float, held: int, alone: float
) -> dict[str, float]:
    cpu_s = _cpu_s()
    with Meter().counting() as steps:
        rate = decode_all(decoder, paths, seconds, held)
    cpu_ms = 1000 * (_cpu_s() - cpu_s) / (rate * seconds)
    return {"images_per_s": rate, "cpu_ms": cpu_ms, "interpreter": steps[0] / alone}


def _steps_alone(seconds: float) -> float:
    with Meter().counting() as steps:
        time.sleep(seconds)
    return steps[0]


def _cpu_s() -> float:
    this = psutil.Process()
    family = [this, *this.children(recursive=True)]
    return float(sum(sum(one.cpu_times()[:2]) for one in family))


def main() -> None:
    """Run the benchmark as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, metavar="DIR", help="photographs, else made up")
    parser.add_argument("--decoders", type=int, action="append", help="so many at once")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        paths, what = find_photos(options.photos, Path(name))
        figures = {
            str(number): measure(paths, number, options.seconds, options.rounds)
            for number in options.decoders or DECODERS
        }
    hand_over({"photographs": what, "machine": machine(), "decoders": figures}, options.json)


if __name__ == "__main__":
    main()
