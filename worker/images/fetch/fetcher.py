"""One image's fetch from beginning to end: slots, deadline, pauses and new attempts."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

from worker.contract.messages import Stamp
from worker.contract.urls import is_web
from worker.errors import EmptyFileError, FetchTimeoutError, ImageError, TooLargeError
from worker.images.fetch.allowed import is_allowed, outside
from worker.images.fetch.daemon_threads import DaemonThreads
from worker.images.fetch.limits import ByteBudget, HostSlots
from worker.images.fetch.slow_hosts import SlowHosts
from worker.images.fetch.store import read_store
from worker.images.fetch.web import PassingError, WebClient

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.contract.messages import Part

# Seconds before each new attempt, when the server says nothing about it; half to all of it.
_PAUSES_S: Final = (0.5, 2.0)
# Whatever a server asks for, nobody waits longer than this.
_LONGEST_PAUSE_S: Final = 5.0
# Names are resolved by threads that may be left behind: more than there are slots.
_RESOLVERS_PER_SLOT: Final = 2
_BUDGET_IMAGES: Final = 4


class FetcherConfig(NamedTuple):
    """What may be fetched, and how much at once."""

    prefixes: Sequence[str]
    max_bytes: int
    slots: int
    slots_per_host: int
    deadline_s: float
    # Whether the deadline begins when an image is submitted, not when its turn comes.
    is_urgent: bool


class Taken(NamedTuple):
    """What a URL gave, its stamp, and the bytes of the budget that it holds until it is used."""

    data: bytes
    stamp: Stamp | None
    held_bytes: int = 0


class Fetcher:
    """Fetches of one kind, urgent or not: those of the other kind take nothing from them."""

    def __init__(self, config: FetcherConfig) -> None:
        self._config = config
        self._slots = HostSlots(config.slots, config.slots_per_host)
        # A call to a store that hangs keeps its thread, so these are counted by host, too.
        self._stores = DaemonThreads("fetch-store", config.slots, config.slots_per_host)
        resolvers = _RESOLVERS_PER_SLOT * config.slots
        self._resolvers = DaemonThreads("fetch-resolve", resolvers, config.slots_per_host)
        self._slow_hosts = SlowHosts(config.deadline_s)
        self.budget: Final = ByteBudget(_BUDGET_IMAGES * config.max_bytes)
        self._web = WebClient(config.prefixes, config.max_bytes, self.budget, self._resolvers)

    async def close(self) -> None:
        """Close connections and end threads."""
        await self._web.close()
        self._stores.stop()
        self._resolvers.stop()

    async def fetch(self, url: str, part: Part | None) -> Taken:
        """Return the content of a URL, or of a part of it: 1 to `max_bytes` bytes.

        Raises:
            ImageError: of stage `read`.
        """
        config = self._config
        if not is_allowed(url, config.prefixes):
            raise outside()
        if part and part.size_bytes > config.max_bytes:
            raise TooLargeError(part.size_bytes, config.max_bytes)
        host = urlsplit(url).netloc.lower()
        deadline_s = self._slow_hosts.deadline_s(host) if config.is_urgent else None
        try:
            async with asyncio.timeout(deadline_s) as limit:
                taken = await self._try(url, host, part, limit)
        except TimeoutError as e:
            self._slow_hosts.note_late(host)
            raise FetchTimeoutError(config.deadline_s) from e
        except ImageError:
            self._slow_hosts.note_answer(host)
            raise
        self._slow_hosts.note_answer(host)
        if not taken.data:
            raise EmptyFileError
        return taken

    async def _try(self, url: str, host: str, part: Part | None, limit: asyncio.Timeout) -> Taken:
        """Fetch, again if that may help. While it pauses, an image holds no slot."""
        loop = asyncio.get_running_loop()
        for pause_s in (*_PAUSES_S, None):
            async with self._slots.hold(host):
                ends_s = limit.when() or loop.time() + self._slow_hosts.deadline_s(host)
                limit.reschedule(ends_s)
                try:
                    return await self._once(url, host, part)
                except PassingError as e:
                    passing = e
            if pause_s is None:
                break
            wait_s = min(max(_jittered(pause_s), passing.after_s), _LONGEST_PAUSE_S)
            if loop.time() + wait_s >= ends_s:
                break
            await asyncio.sleep(wait_s)
        raise passing.error

    async def _once(self, url: str, host: str, part: Part | None) -> Taken:
        if is_web(url):
            return Taken(*await self._web.get(url, part))
        read = partial(read_store, url, self._config.max_bytes, part)
        return Taken(*await self._stores.call(host, read))


def _jittered(pause_s: float) -> float:
    """Return half to all of a pause: workers that failed together do not come back together."""
    return pause_s * random.uniform(0.5, 1)  # noqa: S311 - nothing secret
