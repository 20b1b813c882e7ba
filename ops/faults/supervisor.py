"""Workers that are started again whenever they end, as a supervisor would; and who ended why."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from worker.contract.local.subprocesses import start_child, stop_child

ROOT: Final = Path(__file__).resolve().parents[2]
SIMULATED: Final = Path("ops") / "bench" / "simulated.py"
# Milliseconds a batch of four: some 250 images a second by three workers.
LATENCY_MS: Final = 48
_GRACE_S: Final = 60.0


class Supervisor:
    """A worker for each URL. `ended` are the exit codes of those that nobody had stopped.

    With the sources of another version in `before`, the first ones are of that, and whatever is
    started later is of this.
    """

    def __init__(
        self, urls: list[str], lease_s: int, log: Path, before: Path | None = None, **variables: str
    ) -> None:
        """Start them; `variables` are set in their environment."""
        self._urls = urls
        self._tree = before or ROOT
        self._environment = os.environ | {
            "WANWU_VISIBILITY_TIMEOUT_S": str(lease_s),
            "WANWU_IMAGE_ROOTS": "/",
            **variables,
        }
        self._log = log
        self._stopped: set[int] = set()
        self._started_s: dict[int, float] = {}
        self._denied_s = float("-inf")
        self.ended: list[int] = []
        self.children = [self._start(url) for url in urls]
        self._tree = ROOT

    def kill(self, child: subprocess.Popen[bytes]) -> None:
        """Kill one; it is started again."""
        self._stopped.add(child.pid)
        child.kill()

    def terminate(self, child: subprocess.Popen[bytes]) -> None:
        """Ask one to end; it is started again."""
        self._stopped.add(child.pid)
        child.terminate()

    def look_after(self, *, lacks_rights: bool) -> None:
        """Note which have ended, and start them anew, unless their user lacks rights at the moment.

        One that starts then says so and ends, as it should; one that was at work should not.
        """
        if lacks_rights:
            self._denied_s = time.monotonic()
        for place, child in enumerate(self.children):
            code = child.poll()
            if code is None:
                continue
            if child.pid not in self._stopped:
                self._stopped.add(child.pid)
                if not self._was_refused(child, code):
                    self.ended.append(code)
            if not lacks_rights:
                self.children[place] = self._start(self._urls[place])

    def _was_refused(self, child: subprocess.Popen[bytes], code: int) -> bool:
        """Whether it ended before it was ready, because its user lacked rights since it started."""
        log = self._log.read_text(encoding="utf-8", errors="replace")
        was_ready = re.search(rf"worker\.ready .*worker-{child.pid}@", log) is not None
        return code == 1 and not was_ready and self._denied_s >= self._started_s[child.pid]

    def stop(self) -> None:
        """Let all finish what they hold, and end."""
        for child in self.children:
            child.send_signal(signal.SIGCONT)
            child.terminate()
        for child in self.children:
            stop_child(child, _GRACE_S)

    def _start(self, url: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            child = start_child(
                [sys.executable, str(self._tree / SIMULATED), str(LATENCY_MS)],
                cwd=self._tree,
                env=self._environment
                | {"WANWU_BROKER_URL": url, "WANWU_RESULT_URL": ""}
                | {"PYTHONPATH": str(self._tree)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._started_s[child.pid] = time.monotonic()
        return child
