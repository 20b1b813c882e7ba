"""Batches of images -> the device -> whoever waits for them. Used by the inference thread alone.

What a batch raises falls on its images one by one, so that only the culprit fails.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog

from worker.errors import DeviceMemoryError, InferenceError
from worker.pipeline.batch_policy import Embeddings, Inferred, Item, Pixels
from worker.pipeline.stats import Clock

log = structlog.get_logger()

Wait = Callable[[], Embeddings]
Launch = Callable[[Sequence[Pixels]], Wait]


class Running(NamedTuple):
    """A batch that was launched, and how its embeddings are awaited."""

    items: list[Item]
    wait: Wait
    launched_at_s: float


class BatchRunner:
    """Launches batches and resolves their images, in the order of the launches.

    Counts may be read by any thread; everything else is the inference thread's.
    """

    def __init__(
        self, launch: Launch, clock: Clock, on_out_of_memory: Callable[[int], None]
    ) -> None:
        """Take what begins a batch and returns what waits for its embeddings.

        `on_out_of_memory` is called with the largest size to try after a batch that does not fit.
        """
        self._launch = launch
        self._clock = clock
        self._on_out_of_memory = on_out_of_memory
        self._running: deque[Running] = deque()
        self._free_at_s = 0.0
        self._sizes: Counter[int] = Counter()
        self._sizes_lock = threading.Lock()
        self.halvings = 0

    def sizes(self) -> dict[int, int]:
        """Return how many batches of each size have run."""
        with self._sizes_lock:
            return dict(sorted(self._sizes.items()))

    @property
    def running(self) -> int:
        """How many batches were launched and are not finished."""
        return len(self._running)

    @property
    def images(self) -> int:
        """How many images are in them."""
        return sum(len(one.items) for one in tuple(self._running))

    def begin(self, batch: list[Item]) -> None:
        """Launch a batch; one that cannot be launched is run in parts at once."""
        launched_at_s = self._clock()
        try:
            wait = self._launch([item.pixels_CHW for item in batch])
        except Exception as e:  # noqa: BLE001 - engines raise what they like
            self._run_isolated(batch, e)
            return
        self._running.append(Running(batch, wait, launched_at_s))

    def finish_oldest(self) -> None:
        """Wait for the batch that was launched first, and resolve its images."""
        running = self._running.popleft()
        batch = running.items
        try:
            embeddings_ND = running.wait()
            if len(embeddings_ND) != len(batch):
                msg = f"{len(batch)} images gave {len(embeddings_ND)} embeddings"
                raise InferenceError(msg)  # noqa: TRY301 - handled like any other failure of a batch
        except Exception as e:  # noqa: BLE001 - engines raise what they like
            self._run_isolated(batch, e)
            return
        self._resolve(running, embeddings_ND)

    def finish_all(self) -> None:
        """Wait for all batches that were launched."""
        while self._running:
            self.finish_oldest()

    def _resolve(self, running: Running, embeddings_ND: Embeddings) -> None:
        batch = running.items
        # The device began with it when it was done with the one before.
        started_s = max(running.launched_at_s, self._free_at_s)
        self._free_at_s = self._clock()
        infer_ms = (self._free_at_s - started_s) * 1000
        with self._sizes_lock:
            self._sizes[len(batch)] += 1
        for item, embedding_D in zip(batch, embeddings_ND, strict=True):
            wait_ms = (started_s - item.ready_at_s) * 1000
            item.resolve(Inferred(embedding_D, wait_ms, infer_ms, len(batch)))
        log.debug("batch.done", size=len(batch), infer_ms=round(infer_ms, 3))

    def _run_isolated(self, batch: list[Item], error: Exception) -> None:
        """Run the images of a failed batch one by one; one alone fails with `error`."""
        if len(batch) == 1:
            _fail(batch[0], error)
            return
        if isinstance(error, DeviceMemoryError):
            self._halve(batch)
            return
        log.warning("batch.failed", size=len(batch), error=str(error))
        self._run_in_parts(batch, 1)

    def _halve(self, batch: list[Item]) -> None:
        """Run a batch that does not fit into memory in halves, and let no other be as large."""
        size = len(batch) // 2
        # What runs beside it holds memory, too.
        self.finish_all()
        self.halvings += 1
        self._on_out_of_memory(size)
        log.error("batch.out_of_memory", size=len(batch), max_batch=size)
        self._run_in_parts(batch, size)

    def _run_in_parts(self, batch: list[Item], size: int) -> None:
        """Run parts of a batch, each awaited at once: nothing older may still be running."""
        self.finish_all()
        for start in range(0, len(batch), size):
            self.begin(batch[start : start + size])
            self.finish_all()


def _fail(item: Item, error: Exception) -> None:
    failure = error if isinstance(error, InferenceError) else InferenceError()
    failure.__cause__ = failure.__cause__ or (error if failure is not error else None)
    log.error("image.failed", stage="infer", exc_info=error)
    item.resolve(failure)
