"""A directory -> the images that arrive in it, each when it has stopped growing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Final

from worker.contract.extensions import is_image

SETTLE_S: Final = 2.0
_LOOK_MS: Final = 500
_PAUSE_S: Final = 0.5

Mark = tuple[int, int]


class NewFiles:
    """The images that have come and may still be written to."""

    def __init__(
        self,
        directory: Path,
        settle_s: float = SETTLE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._settle_s = settle_s
        self._clock = clock
        self._pending: dict[str, tuple[Mark, float]] = {}

    def note(self, path: str) -> None:
        """Note that something has happened to a file."""
        below = Path(path).relative_to(self._directory).parts
        if is_image(path) and not any(part.startswith(".") for part in below):
            self._pending.setdefault(path, ((-1, -1), self._clock()))

    def settled(self) -> list[str]:
        """Return the images that have kept size and time long enough; those gone are forgotten."""
        found = []
        for path, (mark, since_s) in list(self._pending.items()):
            seen = _mark(path)
            if seen is None:
                del self._pending[path]
            elif seen != mark:
                self._pending[path] = (seen, self._clock())
            elif self._clock() - since_s >= self._settle_s:
                found.append(path)
                del self._pending[path]
        return found


def watch(directory: Path, settle_s: float = SETTLE_S) -> Iterator[list[str]]:
    """Yield images as they arrive, some at a time; first of all nothing, once it is watched.

    What comes after that is not missed, whatever takes time meanwhile. Never returns.
    """
    arrivals = NewFiles(directory, settle_s)
    looks = _looks(directory)
    # It begins with the first look.
    first = next(looks)
    yield []
    seen_s = time.time()
    for paths, is_complete in chain([first], looks):
        # What is newer has not been found before: it had not kept its size for long enough.
        missed = [] if is_complete else _changed_since(directory, seen_s - min(settle_s, 1.0))
        for path in chain(paths, missed):
            arrivals.note(path)
        seen_s = time.time()
        if found := arrivals.settled():
            yield found


def _looks(directory: Path) -> Iterator[tuple[list[str], bool]]:
    """Yield the paths that have changed, twice a second, and whether those are all."""
    from watchfiles import Change  # noqa: PLC0415 - only here
    from watchfiles import watch as changes_in  # noqa: PLC0415
    from watchfiles._rust_notify import WatchfilesRustInternalError  # noqa: PLC0415

    is_complete = True
    while True:
        looks = changes_in(
            directory,
            watch_filter=None,
            rust_timeout=_LOOK_MS,
            yield_on_timeout=True,
            raise_interrupt=True,
            recursive=True,
        )
        try:
            for changes in looks:
                yield [path for change, path in changes if change != Change.deleted], is_complete
                is_complete = True
        except WatchfilesRustInternalError:
            # It reports no name that is not UTF-8, and nothing after it: look again for all.
            is_complete = False
            time.sleep(_PAUSE_S)


def _changed_since(directory: Path, since_s: float) -> Iterator[str]:
    for folder, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(folder, name)
            with suppress(OSError):
                if os.stat(path).st_ctime >= since_s:
                    yield path


def _mark(path: str) -> Mark | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
