"""Kill decode processes at random moments of a job: each image has one record, all of them tags.

    python ops/faults/decoders.py [--images 5000] [--kills-a-second 3] [--seed N]

There are two workers, whose model is simulated. An image is tried by three processes at most, so
one that is killed with it in hand costs nothing. Exit code 1 if an image is missing, has two
records or has failed, or if a worker has ended.
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
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil
from campaign import made_images
from full import check, staffed
from sender import submit
from server import Server
from supervisor import Supervisor

_PATIENCE_S: Final = 600.0


def decoders_of(workers: list[int]) -> list[psutil.Process]:
    """Return the decode processes of workers: what their own children have forked."""
    found = []
    for pid in workers:
        with suppress(psutil.NoSuchProcess):
            for server in psutil.Process(pid).children():
                found += server.children()
    return found


def kill_decoders(
    producer: subprocess.Popen[bytes], staff: Supervisor, dice: random.Random, kills_a_second: float
) -> int:
    """Kill decode processes until the producer has ended; return how many."""
    killed, ends_s = 0, time.monotonic() + _PATIENCE_S
    while producer.poll() is None and time.monotonic() < ends_s:
        time.sleep(dice.expovariate(kills_a_second))
        there = decoders_of([child.pid for child in staff.children])
        if there and producer.poll() is None:
            with suppress(psutil.NoSuchProcess):
                dice.choice(there).kill()
                killed += 1
    return killed


def main() -> None:
    """Run the job as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--kills-a-second", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    dice = random.Random(seed)  # noqa: S311 - no secret
    with (
        tempfile.TemporaryDirectory(prefix="wanwu-decoders-") as name,
        made_images(options.images) as images,
        Server(Path(name)) as server,
    ):
        out, log = Path(name) / "tags.jsonl", Path(name) / "producer.log"
        with staffed(server, Path(name)) as staff:
            began_s = time.monotonic()
            variables = {**os.environ, "WANWU_BROKER_URL": server.url}
            producer = submit(images, "--out", str(out), log=log, variables=variables)
            killed = kill_decoders(producer, staff, dice, options.kills_a_second)
            problems = check(images, out)
            problems += [f"producer ended with {code}"] if (code := producer.wait()) else []
            staff.look_after(lacks_rights=False)
            problems += [f"a worker ended with {code}" for code in staff.ended]
    took_s = round(time.monotonic() - began_s, 1)
    seen = {"images": options.images, "killed": killed, "s": took_s, "seed": seed}
    print(json.dumps(seen | {"problems": problems}))
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
