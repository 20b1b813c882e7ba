"""Fill Redis to the brim at random moments of jobs, and free memory by the product's own commands.

    python ops/faults/full.py [--fills 10] [--images 600] [--seed N]

There are two workers, whose model is simulated, and the results of a job that nobody fetches. In
the middle of each job of paths, then of bytes, the limit of Redis' memory is set to what is in use:
nothing more can be written. Some seconds later `producer cancel --drop`, or `producer results
--drop`, of the other job frees it. Then each image must have exactly one record, all of them
tags, and no worker may have ended. Exit code 1 if that is not so.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import redis
from campaign import made_images
from sender import submit
from server import Server
from supervisor import ROOT, Supervisor

from worker.contract.messages import ChunkResult, ImageResult
from worker.contract.stores.job_records import success_body
from worker.contract.stores.jobs import JobStore

WORKERS: Final = 2
LEASE_S: Final = 10
# What the other job's results take: more than the part of the memory that is kept free.
HELD_CHUNKS: Final = 160
CHUNK_BYTES: Final = 40_000
MOST_BEFORE_S: Final = 2.0
MOST_FULL_S: Final = 4.0
_TTL_S: Final = 86_400
_PATIENCE_S: Final = 240.0
_PAUSE_S: Final = 0.05


class Filling:
    """Jobs at a Redis that is filled meanwhile."""

    def __init__(self, directory: Path, server: Server, dice: random.Random) -> None:
        self._directory = directory
        self._server = server
        self._dice = dice
        self._client: Any = redis.Redis.from_url(server.url)
        self._jobs = JobStore(self._client, _TTL_S)

    def run(self, number: int, images: list[Path]) -> dict[str, Any]:
        """Return what was seen in one job; `problems` is empty if all is as promised."""
        held, before = self._hold(), {job.id for job in self._jobs.list()}
        out, began_s = self._directory / f"{number}.jsonl", time.monotonic()
        is_blobs, is_cancel = bool(number & 1), not number & 2
        producer = self._submit(images, out, is_blobs=is_blobs)
        until(lambda: bool({job.id for job in self._jobs.list()} - before))
        time.sleep(self._dice.uniform(0, MOST_BEFORE_S))
        self._client.config_set("maxmemory", self._client.info("memory")["used_memory"])
        was_running = producer.poll() is None
        time.sleep(self._dice.uniform(0.5, MOST_FULL_S))
        problems = [] if "full" in self._command("doctor") else ["doctor does not name it"]
        self._command(*self._way_out(held, is_cancel=is_cancel))
        code = producer.wait(_PATIENCE_S)
        self._client.config_set("maxmemory", 0)
        problems += [f"producer ended with {code}"] if code else []
        problems += check(images, out)
        return {
            "blobs": is_blobs,
            "way": "cancel" if is_cancel else "results",
            "in_the_middle": was_running,
            "s": round(time.monotonic() - began_s, 1),
            "problems": problems,
        }

    def _hold(self) -> str:
        """Fill Redis with the results of a job; return its id."""
        job = self._jobs.create("what nobody fetches").id
        image = ImageResult(path="/a.jpg", embedding="A" * CHUNK_BYTES)
        self._jobs.set_sent(job, images=HELD_CHUNKS, chunks=HELD_CHUNKS)
        for seq in range(HELD_CHUNKS):
            found = ChunkResult(job=job, seq=seq, worker="", device="", model="", images=(image,))
            self._jobs.finish_chunk(job, seq, images=1, failed=0, body=success_body(found))
        self._jobs.set_state(job, "submitted")
        return job

    def _submit(self, images: list[Path], out: Path, *, is_blobs: bool) -> subprocess.Popen[bytes]:
        options, log = (
            ["--out", str(out), *["--blobs"] * is_blobs],
            self._directory / "producer.log",
        )
        return submit(images, *options, log=log, variables=self._environment)

    def _way_out(self, job: str, *, is_cancel: bool) -> tuple[str, ...]:
        if is_cancel:
            return ("cancel", job, "--drop")
        return ("results", job, "--drop", "--out", str(self._directory / f"{job}.jsonl"))

    def _command(self, *argv: str) -> str:
        done = subprocess.run(  # noqa: S603 - a program of ours
            [sys.executable, "-m", "producer.cli", *argv],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
        return done.stdout + done.stderr

    @property
    def _environment(self) -> dict[str, str]:
        return os.environ | {"WANWU_BROKER_URL": self._server.url, "LC_ALL": "C.UTF-8"}


@contextmanager
def staffed(server: Server, directory: Path) -> Iterator[Supervisor]:
    """Yield two workers at a Redis, once they take messages."""
    staff = Supervisor([server.url] * WORKERS, LEASE_S, directory / "workers.log")
    try:
        with redis.Redis.from_url(server.url) as client:
            until(lambda: len(client.client_list(_type="pubsub")) >= WORKERS)
        yield staff
    finally:
        staff.stop()


def until(condition: Any) -> None:
    """Wait until the condition holds."""
    ends_s = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > ends_s:
            msg = "what was waited for has not come"
            raise SystemExit(msg)
        time.sleep(_PAUSE_S)


def check(images: list[Path], out: Path) -> list[str]:
    """Return what is wrong with the records of a job: each image has one, with tags."""
    lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    records = [json.loads(line) for line in lines]
    paths = Counter(record["path"] for record in records)
    failed = Counter(record["error"]["code"] for record in records if record["error"])
    problems = {
        "missing": len({str(path) for path in images} - paths.keys()),
        "more than once": sum(count > 1 for count in paths.values()),
    } | {f"failed with {code}": count for code, count in failed.items()}
    return [f"{count} {what}" for what, count in problems.items() if count]


def main() -> None:
    """Run the jobs as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fills", type=int, default=10)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    dice, found = random.Random(seed), []  # noqa: S311 - no secret
    with (
        tempfile.TemporaryDirectory(prefix="wanwu-full-") as name,
        made_images(options.images) as images,
        Server(Path(name)) as server,
    ):
        with staffed(server, Path(name)) as staff:
            filling = Filling(Path(name), server, dice)
            for number in range(options.fills):
                seen = filling.run(number, images) | {"seed": seed}
                staff.look_after(lacks_rights=False)
                seen["problems"] += [f"a worker ended with {code}" for code in staff.ended]
                print(json.dumps(seen), flush=True)
                found.append(seen)
        if any(one["problems"] for one in found):
            print((Path(name) / "producer.log").read_text(encoding="utf-8"), file=sys.stderr)
    sys.exit(1 if any(one["problems"] for one in found) else 0)


if __name__ == "__main__":
    main()
