"""`worker bench` of a model of the size that people use: every engine and precision, in turns.

    python ops/bench/engines.py [--model DIR|ID] [--json FILE] [OPTION ...]

Other options are those of `worker bench`. Without `--model` it is a Chinese-CLIP of B/16's size
with random weights. When it is stopped, `worker bench` is, too, and hands over what it has by then.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from full_size import save

from worker.contract.local.subprocesses import start_child, stop_child
from worker.contract.stops import Stopped, stoppable

_GRACE_S: Final = 25.0


def measure(model: str, options: list[str], cache: Path) -> int:
    """Run `worker bench` of a model; return its exit code. What it exports goes to the cache."""
    child = start_child(
        [sys.executable, "-m", "worker.cli", "bench", "--model", model, *options],
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
        stdin=subprocess.DEVNULL,
    )
    try:
        return child.wait()
    finally:
        stop_child(child, _GRACE_S)


def main() -> int:
    """Run the benchmark as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", metavar="DIR|ID", help="a model in transformers' form")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options, others = parser.parse_known_args()
    if options.json:
        others += ["--json", str(options.json)]
    try:
        with stoppable(), tempfile.TemporaryDirectory() as place:
            model = options.model or str(save(Path(place) / "full-size"))
            return measure(model, others, Path(place) / "cache")
    except Stopped as e:
        return e.exit_code


if __name__ == "__main__":
    sys.exit(main())
