"""A `producer submit` of a list of images, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from supervisor import ROOT

from worker.contract.local.subprocesses import start_child


def submit(
    images: Iterable[Path],
    *options: str,
    log: Path,
    variables: Mapping[str, str],
    tree: Path = ROOT,
) -> subprocess.Popen[bytes]:
    """Start it with these options and `variables` in its environment, of the version in `tree`.

    What it says is added to `log`.
    """
    with log.open("ab") as sink:
        producer = start_child(
            [sys.executable, "-m", "producer.cli", "submit", "-", *options],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree), **variables},
            stdin=subprocess.PIPE,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    assert producer.stdin is not None  # noqa: S101 - for the type checker
    producer.stdin.write("".join(f"{path}\n" for path in images).encode())
    producer.stdin.close()
    return producer
