"""Fetching as a worker does it, one image or many at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from conftest import PATIENCE_S

from worker.contract.messages import ImageRef, Part
from worker.contract.settings import Settings
from worker.images.fetch.pool import Fetched, FetchPool

Ask = Callable[..., "Future[Fetched]"]


@contextmanager
def fetching(prefixes: Sequence[str], **settings: Any) -> Iterator[Ask]:
    """Yield how to ask a pool: `ask(url, part=None, urgent=False)` is a future of the outcome."""
    pool = FetchPool(Settings(image_urls=tuple(prefixes), decode_threads=1, **settings))

    def ask(url: str, part: Part | None = None, *, urgent: bool = False) -> Future[Fetched]:
        future: Future[Fetched] = Future()
        pool.submit(ImageRef(url, part=part), future.set_result, urgent=urgent)
        return future

    pool.start()
    try:
        yield ask
    finally:
        pool.stop()


def got(future: Future[Fetched]) -> bytes:
    """Return what was fetched.

    Raises:
        ImageError: as the pool found.
    """
    fetched = future.result(PATIENCE_S)
    fetched.release()
    if fetched.error is not None:
        raise fetched.error
    return fetched.data


def fetch(url: str, prefixes: Sequence[str], max_bytes: int, part: Part | None = None) -> Fetched:
    """Return what one URL gives.

    Raises:
        ImageError: as the pool found.
    """
    with fetching(prefixes, max_file_bytes=max_bytes) as ask:
        future = ask(url, part)
        got(future)
        return future.result()
