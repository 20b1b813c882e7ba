"""Measure how fast paths are submitted, and in how much memory.

    python ops/bench/submit.py [--paths 20000] [--rounds 5] [--json FILE]

Starts a private Redis and runs `producer submit - --no-wait` with a list of paths, as a user would:
process start, reading the list and leaving included, and again without the time that a list of one
path takes. No worker runs, so Redis holds every message in the end: its memory is given too; and
the list may be no longer than what a job may have under way.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Final

from tables import hand_over

from producer.jobs.redis_transport import MAX_IMAGES
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.redis.connections import connect

_MB: Final = 1e6
_KIB: Final = 1024


def write_list(file: Path, count: int) -> None:
    """Write names such as cameras give."""
    with file.open("w", encoding="utf-8") as out:
        out.writelines(f"/data/photos/{n // 1000:04d}/IMG_{n:07d}.jpg\n" for n in range(count))


def submit(names: Path, url: str) -> tuple[float, float]:
    """Return the seconds that the command took, and the most memory it had, in MB."""
    options = ["-m", "producer.cli", "submit", "-", "--no-wait", "--broker", url]
    began_s = time.perf_counter()
    with names.open("rb") as stream:
        process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, *options],
            stdin=stream,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        words_said = process.stderr.read().decode() if process.stderr else ""
        raise SystemExit(words_said)
    return time.perf_counter() - began_s, usage.ru_maxrss * _KIB / _MB


def measure(count: int, rounds: int) -> dict[str, Any]:
    """Submit a list of one path and one of `count`, in turns; return medians of the rounds."""
    seconds: dict[int, list[float]] = {1: [], count: []}
    peaks_mb: dict[int, list[float]] = {1: [], count: []}
    with tempfile.TemporaryDirectory() as directory, EmbeddedRedis() as server:
        client = connect(server.url)
        names = Path(directory) / "names.txt"
        for _ in range(rounds):
            for length in (1, count):
                write_list(names, length)
                client.flushall()
                empty_bytes = client.info("memory")["used_memory"]
                took_s, peak_mb = submit(names, server.url)
                seconds[length].append(took_s)
                peaks_mb[length].append(peak_mb)
        held_bytes = client.info("memory")["used_memory"] - empty_bytes
    start_s, whole_s = median(seconds[1]), median(seconds[count])
    return {
        "paths": count,
        "start_s": start_s,
        "whole_s": whole_s,
        "paths_per_s_with_start": count / whole_s,
        "paths_per_s": (count - 1) / (whole_s - start_s),
        "producer_peak_mb": max(peaks_mb[count]),
        "producer_growth_mb": max(peaks_mb[count]) - max(peaks_mb[1]),
        "redis_bytes_per_path": held_bytes / count,
    }


def main() -> None:
    """Run the benchmark as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--paths", type=int, default=MAX_IMAGES, help="length of the list")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    if not 1 < options.paths <= MAX_IMAGES:
        parser.error(f"--paths is 2 to {MAX_IMAGES}")
    figures = measure(options.paths, options.rounds)
    hand_over(figures, options.json)


if __name__ == "__main__":
    main()
