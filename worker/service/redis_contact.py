"""Answers and errors of Redis -> whether this worker is in contact with it, for health checks."""

from __future__ import annotations

import time
from typing import Final

from worker.contract.redis.errors import reason_of
from worker.pipeline.stats import Clock

# Somewhat more than the time-outs of one reply and of a new connection, one after the other.
SILENT_S: Final = 20.0
# No call of the loop takes so long: each has a time-out. The loop hangs.
STUCK_S: Final = 90.0


class RedisContact:
    """Updated by the thread of the event loop, read by others.

    The loop sends Redis a command every second. A reply proves both: that Redis is there, and that
    the loop runs.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._answered_s = clock()
        self._reason = ""
        self._is_connecting = True

    def answered(self) -> None:
        """Note a reply of Redis."""
        self._answered_s = self._clock()
        self._reason = ""
        self._is_connecting = False

    def lost(self, error: BaseException) -> None:
        """Note why the connection ended or cannot be made; the loop connects anew."""
        self._reason = reason_of(error)
        self._is_connecting = True

    @property
    def problem(self) -> str | None:
        """Why no chunk can come, or None: Redis has not answered for longer than `SILENT_S`."""
        silent_s = self._clock() - self._answered_s
        if silent_s <= SILENT_S:
            return None
        why = f": {self._reason}" if self._reason else ""
        return f"Redis has not answered for {silent_s:.0f} s{why}"

    @property
    def stuck(self) -> str | None:
        """Why only a new process helps, or None: the loop hangs, and not because it connects."""
        silent_s = self._clock() - self._answered_s
        if self._is_connecting or silent_s <= STUCK_S:
            return None
        return f"the event loop has stood still for {silent_s:.0f} s"
