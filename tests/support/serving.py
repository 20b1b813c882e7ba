"""A `producer serve` at a Redis, for as long as a block runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conftest import PATIENCE_S, ROOT, environment, until
from server import free_port

from worker.contract.local.subprocesses import start_child, stop_child


@contextmanager
def serving(broker_url: str, log: Path) -> Iterator[str]:
    """Yield its address once it listens; what it says is written to `log`."""
    port = free_port()
    with log.open("wb") as sink:
        child = start_child(
            [sys.executable, "-m", "producer.cli", "serve", "--port", str(port)],
            cwd=ROOT,
            env=environment(broker_url=broker_url),
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    try:
        until(lambda: f":{port}" in log.read_text())
        yield f"http://127.0.0.1:{port}"
    finally:
        stop_child(child, PATIENCE_S)
