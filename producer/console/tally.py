"""What has come back of a job, and how fast."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from worker.contract.i18n import gettext as _
from worker.contract.messages import Record


class Tally:
    """Counts records, and the time that they take."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began_s = clock()
        self.done = 0
        self.failed = 0

    def add(self, records: Iterable[Record]) -> None:
        """Count records."""
        for record in records:
            self.done += 1
            self.failed += record.status == "failed"

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first moment."""
        return self._clock() - self._began_s

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.done / max(self.elapsed_s, 1e-9)

    def __str__(self) -> str:
        noun = "image" if self.done == 1 else "images"
        failed = f", {self.failed:,} failed" if self.failed else ""
        return f"{self.done:,} {noun} in {self.elapsed_s:.1f} s, {self.rate:,.1f} img/s{failed}"
