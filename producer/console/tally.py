"""What has come back of a job, and how fast."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from worker.contract.i18n import gettext as _
from worker.contract.i18n import ngettext
from worker.contract.messages import Record


class Tally:
    """What has come back, and how fast."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        """Count from now on."""
        self._began_s = self._clock()
        self.done = self.failed = 0

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
        message = ngettext(
            "{done:,} image in {seconds:.1f} s, {rate:,.1f} img/s",
            "{done:,} images in {seconds:.1f} s, {rate:,.1f} img/s",
            self.done,
        ).format(done=self.done, seconds=self.elapsed_s, rate=self.rate)
        if self.failed:
            message += _(", {failed:,} failed").format(failed=self.failed)
        return message
