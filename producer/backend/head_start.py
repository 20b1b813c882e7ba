"""A private Redis and its worker, started while the command that wants them is still loading.

A worker takes seconds until it is ready, most of it to load torch, and our own libraries take half
a second: on two cores both load at the same time. Loads none of these libraries itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import NamedTuple, Self

from producer.backend.worker_process import is_artifact, worker_process
from worker.contract.extras import missing
from worker.contract.i18n import gettext as _
from worker.contract.local.redis_server import EmbeddedError, EmbeddedRedis
from worker.contract.local.subprocesses import ManagedProcess
from worker.contract.settings import SettingsError


class Begun(NamedTuple):
    """What was started for one model: whoever takes it ends it."""

    model: str
    server: EmbeddedRedis
    worker: ManagedProcess
    url: str

    def stop(self) -> None:
        """End both; harmless when done twice."""
        self.worker.stop()
        self.server.stop()


class HeadStart:
    """Starts both on entering the block; at its end, nobody having taken them, they are gone.

    What cannot be started is left to whoever needs it, and says why.
    """

    def __init__(self, model: str | None, echo: Callable[[str], object] = lambda _: None) -> None:
        """Take the model of the worker; None, or "", for the one that is bundled.

        `echo` is called if somebody interrupts before anything is taken.
        """
        self._model = model or ""
        self._echo = echo

    def __enter__(self) -> Self:
        global _begun  # noqa: PLW0603
        with suppress(EmbeddedError, SettingsError, OSError):
            _begun = _begin(self._model)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if left := _take(self._model):
            left.stop()
            if isinstance(error, KeyboardInterrupt):
                self._echo(_("interrupted before any work began"))


@contextmanager
def redis_and_worker(model: str | None) -> Iterator[tuple[EmbeddedRedis, ManagedProcess | None]]:
    """Yield a Redis that answers, and the process of a worker at it that still loads.

    There is no process yet where the model is to be exported first, or libraries are missing.

    Raises:
        EmbeddedError: on entering, if no Redis can be started.
    """
    begun = _take(model or "") or _begin(model or "")
    if begun is None:
        with EmbeddedRedis() as server:
            yield server, None
        return
    try:
        begun.server.start()
        is_there = begun.server.url == begun.url
        if not is_there:
            # Another program has the port, where the worker would look for its Redis.
            begun.worker.stop()
        yield begun.server, begun.worker if is_there else None
    finally:
        begun.stop()


def _take(model: str) -> Begun | None:
    """Return what was started for a model, once; None if nothing was."""
    global _begun
    if _begun is None or _begun.model != model:
        return None
    begun, _begun = _begun, None
    return begun


def _begin(model: str) -> Begun | None:
    if missing("worker") or missing("embedded") or not is_artifact(model):
        return None
    server = EmbeddedRedis()
    server.reserve()
    # The worker first: it takes longest, and looks for its Redis when it has loaded all else.
    begun = Begun(model, server, worker_process(server.url, model), server.url)
    try:
        begun.worker.start()
        server.begin()
    except BaseException:
        begun.stop()
        raise
    return begun


_begun: Begun | None = None
