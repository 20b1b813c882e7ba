"""A Redis -> how full its memory is: whoever sends looks before, and waits while it is short.

A Redis that must not evict (`noeviction`) refuses to write when its memory is full. Workers can
take nothing then, and what they hold is stored beyond the limit. So senders stop before that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

import redis

# What is above is for the results of what is under way, and for those who are in a hurry.
FULL_SHARE: Final = 0.85
_LOOK_S: Final = 1.0
# Rights may be given while a program runs.
_DENIED_S: Final = 60.0
_NO_EVICTION: Final = "noeviction"


def memory_share(about: dict[str, Any]) -> tuple[int, int]:
    """Return bytes in use and most bytes, by `INFO memory`; 0 if there is no limit that refuses."""
    limit = int(about.get("maxmemory") or 0)
    if not limit or about.get("maxmemory_policy", _NO_EVICTION) != _NO_EVICTION:
        return 0, 0
    used = int(about.get("used_memory", 0)) - int(about.get("mem_not_counted_for_evict", 0))
    return used, limit


class MemoryWatch:
    """Memory of one or more servers: the fullest counts. May be used by several threads.

    Redis is asked once a second at most; what is sent meanwhile is added to what was in use. Where
    the user may not ask, it is never short, and nobody asks again for a minute.
    """

    def __init__(self, *clients: redis.Redis, now: Callable[[], float] = time.monotonic) -> None:
        self._clients: tuple[Any, ...] = clients
        self._now = now
        self._lock = threading.Lock()
        self._looked_s = float("-inf")
        self._used = self._limit = 0
        self._denied_until_s: dict[int, float] = {}

    @property
    def percent(self) -> int:
        """How full it is, in percent; 0 where there is no limit."""
        with self._lock:
            self._look()
            return round(100 * self._used / self._limit) if self._limit else 0

    @property
    def is_short(self) -> bool:
        """Whether nothing more should be sent."""
        with self._lock:
            self._look()
            return bool(self._limit) and self._used > FULL_SHARE * self._limit

    def take(self, size_bytes: int) -> bool:
        """Return whether so many bytes fit, and count them as in use if they do.

        What would not fit into an empty server is let through: that Redis refuses it says why.
        """
        with self._lock:
            self._look()
            most = FULL_SHARE * self._limit
            if self._limit and size_bytes <= most < self._used + size_bytes:
                return False
            self._used += size_bytes
            return True

    def _look(self) -> None:
        if self._now() - self._looked_s < _LOOK_S:
            return
        found = [memory_share(self._about(place)) for place in range(len(self._clients))]
        limited = [one for one in found if one[1]]
        self._used, self._limit = max(limited, key=lambda one: one[0] / one[1], default=(0, 0))
        self._looked_s = self._now()

    def _about(self, place: int) -> dict[str, Any]:
        if self._now() < self._denied_until_s.get(place, 0.0):
            return {}
        # As a value: an error that is raised here is taken for one that passes, and the client
        # tries for half a minute.
        with self._clients[place].pipeline(transaction=False) as pipe:
            pipe.info("memory")
            (found,) = pipe.execute(raise_on_error=False)
        if isinstance(found, redis.exceptions.NoPermissionError):
            self._denied_until_s[place] = self._now() + _DENIED_S
        return {} if isinstance(found, Exception) else dict(found)
