"""Which hosts let images wait of late -> less time for those that follow."""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping
from typing import Final

from cachetools import TTLCache

# Less than are fetched from a host at once: those that follow begin as the first ones end.
_MOST: Final = 4
# What is left of the deadline then: enough for a server that is well again.
_PART: Final = 0.1
_REMEMBERED_S: Final = 300
_HOSTS: Final = 1024


class SlowHosts:
    """Counts what hosts were too slow for. Belongs to one event loop.

    A job may name thousands of images of a host that hangs. While a worker waits for them it takes
    few others, so only the first of them have the whole deadline.
    """

    def __init__(self, deadline_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._deadline_s = deadline_s
        self._late: MutableMapping[str, int] = TTLCache(_HOSTS, _REMEMBERED_S, now)

    def is_slow(self, host: str) -> bool:
        """Whether images of a host have less time."""
        return self._late.get(host, 0) >= _MOST

    def deadline_s(self, host: str) -> float:
        """Return how many seconds an image of a host may take."""
        return self._deadline_s * (_PART if self.is_slow(host) else 1)

    def note_late(self, host: str) -> None:
        """Note that an image took too long."""
        self._late[host] = min(self._late.get(host, 0) + 1, 2 * _MOST)

    def note_answer(self, host: str) -> None:
        """Note that a host answered in time, whatever it said: that makes up for many others."""
        if late := self._late.pop(host, 0) // 2:
            self._late[host] = late
