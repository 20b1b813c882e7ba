"""Reference by URL -> bytes, on one event loop: apart from what reads and decodes.

::

    any thread   submit --> thread "fetch": a task per image --> on_done
                                 |
               threads "fetch-resolve", "fetch-store": what cannot be interrupted
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog

from worker.contract.messages import Stamp

if TYPE_CHECKING:
    from worker.contract.messages import ImageRef
    from worker.contract.settings import Settings
    from worker.images.fetch.fetcher import Fetcher

# Images fetched from one host at once, urgent ones as many again; one for each decoder if that is
# more. In all, so many times that.
SLOTS_PER_HOST: Final = 8
_HOSTS: Final = 4

log = structlog.get_logger()


def _nothing() -> None:
    pass


class Fetched(NamedTuple):
    """What a URL gave, or the error that it ended with, and the milliseconds that it took.

    `release` is called once, when the data has been used: large images wait for it.
    """

    data: bytes = b""
    stamp: Stamp | None = None
    error: BaseException | None = None
    read_ms: float = 0.0
    release: Callable[[], object] = _nothing


OnDone = Callable[[Fetched], object]


class FetchPool:
    """Fetches images. Any thread may submit; each image ends within the deadline of its fetch."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loop: asyncio.AbstractEventLoop | None = None
        # All that follows belongs to the loop.
        self._fetchers: dict[bool, Fetcher] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Start the loop; connections and threads begin with the first image."""
        self._loop = asyncio.new_event_loop()
        # Of connections that end in odd ways it says more than anybody needs.
        self._loop.set_exception_handler(_note)
        self._thread = threading.Thread(
            target=self._run, args=(self._loop,), name="fetch", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Fetch what was submitted, then end; harmless when done twice."""
        if (loop := self._loop) is None:
            return
        asyncio.run_coroutine_threadsafe(self._finish(), loop).result()
        self._loop = None
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()
        loop.close()

    def submit(self, ref: ImageRef, on_done: OnDone, *, urgent: bool = False) -> None:
        """Let an image be fetched; `on_done` is called once, on the loop, so it must not block."""
        if self._loop is None:
            msg = "the fetch pool is not started"
            raise RuntimeError(msg)
        self._loop.call_soon_threadsafe(self._begin, ref, on_done, urgent)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()

    def _begin(self, ref: ImageRef, on_done: OnDone, urgent: bool) -> None:  # noqa: FBT001 - a flag
        task = asyncio.get_running_loop().create_task(self._fetch(ref, on_done, urgent=urgent))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fetch(self, ref: ImageRef, on_done: OnDone, *, urgent: bool) -> None:
        """Fetch an image; whatever happens, it gets an outcome."""
        began_s = time.perf_counter()
        taken, error = None, None
        try:
            taken = await self._fetcher(urgent=urgent).fetch(ref.place, ref.part)
        except BaseException as e:  # noqa: BLE001 - the pipeline tells them apart
            error = e
        read_ms = 1000 * (time.perf_counter() - began_s)
        if taken is None:
            on_done(Fetched(error=error, read_ms=read_ms))
            return
        release = partial(self._release, urgent, taken.held_bytes) if taken.held_bytes else _nothing
        on_done(Fetched(taken.data, taken.stamp, None, read_ms, release))

    def _fetcher(self, *, urgent: bool) -> Fetcher:
        if urgent not in self._fetchers:
            from worker.images.fetch.fetcher import Fetcher, FetcherConfig  # noqa: PLC0415 - for who fetches

            settings = self._settings
            per_host = max(SLOTS_PER_HOST, settings.decoders)
            self._fetchers[urgent] = Fetcher(
                FetcherConfig(
                    prefixes=settings.image_urls,
                    max_bytes=settings.max_file_bytes,
                    slots=_HOSTS * per_host,
                    slots_per_host=per_host,
                    deadline_s=(
                        settings.urgent_fetch_deadline_s if urgent else settings.fetch_deadline_s
                    ),
                    is_urgent=urgent,
                )
            )
        return self._fetchers[urgent]

    def _release(self, urgent: bool, held_bytes: int) -> None:  # noqa: FBT001 - which fetcher
        """Let others have what an image held, from any thread."""
        if self._loop is not None:
            give_back = self._fetchers[urgent].budget.give_back
            with suppress(RuntimeError):  # It closes at this moment.
                self._loop.call_soon_threadsafe(give_back, held_bytes)

    async def _finish(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)
        for fetcher in self._fetchers.values():
            await fetcher.close()


def _note(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    log.debug("fetch.loop", reason=context["message"], exc_info=context.get("exception"))
