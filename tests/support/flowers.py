"""The real Flower, as `ops/flower` starts it, for the time of a test."""

from __future__ import annotations

import base64
import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conftest import PATIENCE_S, ROOT, environment
from server import free_port

from worker.contract.local.subprocesses import start_child, stop_child

USER = "ann:secret of the tests"


class Flower:
    """Flower at a port, asked over its API."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"

    def address(self, path: str) -> str:
        """The page's address, with user and password in it."""
        return f"{self._base}{path}".replace("://", f"://{urllib.parse.quote(USER, safe=':')}@")

    def get(self, path: str, user: str | None = USER) -> Any:
        request = urllib.request.Request(f"{self._base}{path}")
        if user:
            word = base64.b64encode(user.encode()).decode()
            request.add_header("Authorization", f"Basic {word}")
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            body = answer.read().decode()
        return json.loads(body) if path.startswith("/api") else body

    def wait(self, path: str, wanted: Callable[[Any], bool], timeout_s: float = PATIENCE_S) -> Any:
        """Ask until the answer is what is wanted; return the last, wanted or not."""
        ends_s = time.monotonic() + timeout_s
        while not wanted(found := self.get(path)) and time.monotonic() < ends_s:
            time.sleep(0.2)
        return found

    def succeeded(self, count: int) -> list[dict[str, Any]]:
        """Return what it says of chunks that are done, once there are so many."""

        def done(tasks: Any) -> list[dict[str, Any]]:
            return [one for one in tasks.values() if one["state"] == "SUCCESS"]

        return done(self.wait("/api/tasks", lambda tasks: len(done(tasks)) >= count))


@contextmanager
def flower_at(url: str, directory: Path, **settings: str) -> Iterator[Flower]:
    """Start Flower at a broker, and stop it at the end of the block."""
    port, log = free_port(), directory / "flower.log"
    variables = environment(broker_url=url, **settings) | {"FLOWER_BASIC_AUTH": USER}
    with log.open("wb") as sink:
        child = start_child(
            [str(ROOT / "ops" / "flower"), f"--port={port}"],
            cwd=directory,
            env=variables,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    found, ends_s = Flower(port), time.monotonic() + PATIENCE_S
    try:
        while True:
            try:
                found.get("/api/workers")
                break
            except (OSError, urllib.error.URLError):
                reply = log.read_text(encoding="utf-8")
                assert child.poll() is None, reply
                assert time.monotonic() < ends_s, reply
                time.sleep(0.1)
        argv = Path(f"/proc/{child.pid}/cmdline").read_bytes().decode()
        assert url not in argv
        yield found
    finally:
        stop_child(child, PATIENCE_S)
