"""Images that are ready or expected -> when a micro-batch is worth starting. Plain state.

It knows neither threads nor clocks: the batcher holds its lock and passes the time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import structlog

Pixels = npt.NDArray[np.uint8]
Embeddings = npt.NDArray[np.float32]

# How many mean gaps between decoded images the thread may idle for each that is missing. With gaps
# spread at random (exponentially), 98 of 100 single gaps are shorter than four means.
PATIENCE_GAPS: Final = 4.0
# But at least this long: a decode thread that had to yield its core is back after a time slice.
LEAST_PATIENCE_S: Final = 0.005
# Weight of the newest gap in the running mean, and how far beyond that mean one gap may count: one
# huge image must not make the worker patient for long.
_GAP_WEIGHT: Final = 0.2
_GAP_CAP: Final = 4.0


log = structlog.get_logger()


class Inferred(NamedTuple):
    """An image's embedding and how it came about; `batch_size` is 0 if it was in the cache."""

    embedding_D: Embeddings
    batch_wait_ms: float
    infer_ms: float
    batch_size: int


Outcome = Inferred | BaseException


class Item:
    """A decoded image, when it was ready, and who gets its embedding, or why there is none.

    A future would do the same with two locks and a condition for each image: a fifth of what the
    inference thread did.
    """

    __slots__ = ("_on_done", "is_done", "pixels_CHW", "ready_at_s")

    def __init__(
        self, pixels_CHW: Pixels, ready_at_s: float, on_done: Callable[[Outcome], object]
    ) -> None:
        """Take whom to call once, by the inference thread mostly."""
        self.pixels_CHW: Final = pixels_CHW
        self.ready_at_s: Final = ready_at_s
        self._on_done = on_done
        self.is_done = False

    def resolve(self, outcome: Outcome) -> None:
        """Pass on what became of the image. Only the first time counts."""
        if self.is_done:
            return
        self.is_done = True
        try:
            self._on_done(outcome)
        except Exception:
            # Others wait for the thread that is here.
            log.exception("image.unanswered")


class BatchPolicy:
    """What is ready, what is still being decoded, and whether to wait.

    Urgent images go before all others, at once, and in batches of their own: a full batch takes
    several times as long as one image.

    `expected` images are being read and decoded. They are waited for only while they can still fill
    the batch, and at most `PATIENCE_GAPS` mean gaps, or a time slice, for each one missing.
    """

    def __init__(self, max_batch: int) -> None:
        self._max_batch = max_batch
        self._ready: deque[Item] = deque()
        self._urgent: deque[Item] = deque()
        self._expected = 0
        self._mean_gap_s: float | None = None
        self._gap_from_s = 0.0
        self._deadline_s: float | None = None

    def expect(self, images: int, now_s: float) -> None:
        """Note that so many images are being decoded; none of them is ready yet."""
        if not self._expected:
            # Idle time is no gap: it says nothing of how long a decode takes.
            self._gap_from_s = now_s
        self._expected += images

    def forget(self) -> bool:
        """Note that one of the expected images will not come; return as `put` does."""
        self._expected -= 1
        return bool(self._ready) and self._is_due

    def put(self, item: Item, *, urgent: bool = False) -> bool:
        """Add an image that was expected and is now ready.

        Return whether that changes what `patience_s` says: a batch begins, or need not wait any
        more. Otherwise whoever waits need not be woken, only to wait again.
        """
        self._expected -= 1
        if urgent:
            self._urgent.append(item)
            return True
        self._ready.append(item)
        gap_s = item.ready_at_s - self._gap_from_s
        self._gap_from_s = item.ready_at_s
        if self._mean_gap_s is None:
            self._mean_gap_s = gap_s
        else:
            excess_s = min(gap_s, _GAP_CAP * self._mean_gap_s) - self._mean_gap_s
            self._mean_gap_s += _GAP_WEIGHT * excess_s
        return len(self._ready) == 1 or self._is_due

    @property
    def max_batch(self) -> int:
        """Most images that are taken at once."""
        return self._max_batch

    def shrink(self, max_batch: int) -> None:
        """Let no batch be larger than that from now on."""
        self._max_batch = min(self._max_batch, max_batch)

    @property
    def expected(self) -> int:
        """How many images are being decoded."""
        return self._expected

    @property
    def ready(self) -> int:
        """How many images wait for their batch."""
        return len(self._ready) + len(self._urgent)

    @property
    def is_full(self) -> bool:
        """Whether a batch need not wait for more images: it is full, or urgent."""
        return bool(self._urgent) or len(self._ready) >= self._max_batch

    @property
    def _is_due(self) -> bool:
        """Whether the batch is full, or what is expected cannot fill it."""
        missing = self._max_batch - len(self._ready)
        return missing <= 0 or self._expected < missing

    def patience_s(self, now_s: float) -> float | None:
        """Return how long to wait before taking: 0 is at once, None until something happens."""
        if not self._ready and not self._urgent:
            return None
        if self._urgent or self._is_due:
            return 0.0
        if self._deadline_s is None:
            missing = self._max_batch - len(self._ready)
            for_each_s = max(LEAST_PATIENCE_S, PATIENCE_GAPS * (self._mean_gap_s or 0.0))
            self._deadline_s = now_s + missing * for_each_s
        return max(0.0, self._deadline_s - now_s)

    def take(self) -> list[Item]:
        """Take the oldest images, at most a batch of them; none if none is ready."""
        self._deadline_s = None
        line = self._urgent or self._ready
        return [line.popleft() for _ in range(min(self._max_batch, len(line)))]
