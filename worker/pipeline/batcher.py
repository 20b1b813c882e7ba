"""Decoded images of all tasks -> micro-batches -> one inference thread. Where threads meet.

::

    decode threads --put--> Backlog --take--> inference thread --Future--> task threads

Where batches run on their own, on a GPU or in streams, the thread launches a full one while another
runs: the device does not wait while results are handed out and the next images are stacked.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

import structlog

from worker.errors import DeviceMemoryError, InferenceError, WorkerGoneError
from worker.pipeline.batch_policy import BatchPolicy, Embeddings, Inferred, Item, Pixels
from worker.pipeline.stats import Clock

log = structlog.get_logger()


Wait = Callable[[], Embeddings]


class Running(NamedTuple):
    """A batch that was launched, and how its embeddings are awaited."""

    items: list[Item]
    wait: Wait
    launched_at_s: float


class Batcher:
    """Runs batches in one thread. Every future handed out is resolved, whatever happens.

    One thread infers: two would contend for the cores and blur the timings.
    """

    def __init__(
        self,
        launch: Callable[[Sequence[Pixels]], Wait],
        max_batch: int,
        *,
        clock: Clock = time.monotonic,
        on_death: Callable[[], None] | None = None,
    ) -> None:
        """Take what begins a batch, and returns what waits for its embeddings."""
        self._launch = launch
        self._clock = clock
        self._on_death = on_death
        self._policy = BatchPolicy(max_batch)
        self._changed = threading.Condition()
        self._runs_ahead = False
        self._holds_back = False
        self._running: deque[Running] = deque()
        self._unresolved: list[Item] = []
        self._free_at_s = 0.0
        self._stopping = False
        self._died = False
        self._halvings = 0
        self._sizes: Counter[int] = Counter()
        self._thread = threading.Thread(target=self._live, name="inference", daemon=True)

    def start(self, *, pipelined: bool = False) -> None:
        """Start the inference thread; if `pipelined`, two batches may be under way at a time."""
        self._runs_ahead = pipelined
        self._thread.start()

    def stop(self) -> None:
        """Infer what is ready, then end the thread; later puts are refused. Harmless twice."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        # The thread itself may be the one that asks, by way of `on_death`.
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()
        self._fail([])  # Only a thread that was never started leaves anything.

    @property
    def died(self) -> bool:
        """Whether the inference thread ended on its own: no image can be tagged here any more."""
        return self._died

    def sizes(self) -> dict[int, int]:
        """Return how many batches of each size have run."""
        with self._changed:
            return dict(sorted(self._sizes.items()))

    @property
    def halvings(self) -> int:
        """How often a batch did not fit into the device's memory."""
        return self._halvings

    @property
    def max_batch(self) -> int:
        """The largest batch: as asked for, or what fits."""
        return self._policy.max_batch

    def set_latency_mode(self, wanted: bool) -> None:  # noqa: FBT001 - as whether there is a reason
        """Launch nothing ahead while urgent images may come: they would have to wait for it too."""
        self._holds_back = wanted

    def shrink(self, max_batch: int) -> None:
        """Let no batch be larger than that from now on."""
        with self._changed:
            self._policy.shrink(max_batch)

    def depths(self) -> dict[str, int]:
        """Return how many images are being decoded, ready, and in a batch that runs."""
        with self._changed:
            return {
                "decoding": self._policy.expected,
                "ready": self._policy.ready,
                "inferring": sum(len(one.items) for one in tuple(self._running)),
            }

    def expect(self, images: int) -> None:
        """Announce images whose decoding begins: each must be followed by `put` or `forget`."""
        with self._changed:
            self._policy.expect(images, self._clock())

    def forget(self) -> None:
        """Take back the announcement of one image: it could not be decoded."""
        with self._changed:
            if self._policy.forget():
                self._changed.notify()

    def put(self, pixels_CHW: Pixels, *, urgent: bool = False) -> Future[Inferred]:
        """Hand over an image that was announced; its future may fail with an `InferenceError`.

        Or with a `WorkerGoneError`, if the thread has ended on its own.

        Raises:
            WorkerGoneError: the batcher was stopped.
        """
        item = Item(pixels_CHW, self._clock(), Future())
        with self._changed:
            if self._stopping:
                msg = "the batcher was stopped"
                raise WorkerGoneError(msg)
            if self._died:
                item.future.set_exception(_thread_gone())
            elif self._policy.put(item, urgent=urgent):
                self._changed.notify()
        return item.future

    def _live(self) -> None:
        try:
            while (batch := self._next()) or self._running:
                self._unresolved = [one for one in self._unresolved if not one.future.done()]
                self._unresolved += batch
                if batch:
                    self._begin(batch)
                if self._running and not (batch and self._may_go_ahead):
                    self._finish(self._running.popleft())
        except BaseException as e:  # Nobody may wait for ever, whatever it was.
            log.critical("inference.died", exc_info=e)
            self._die()

    @property
    def _may_go_ahead(self) -> bool:
        return self._runs_ahead and not self._holds_back and len(self._running) == 1

    def _next(self) -> list[Item]:
        """Wait for a batch that is worth taking; an empty one means stop.

        While one runs, only a full one is worth it, and nothing is waited for: fewer images than
        that lose no time until the device is free, and more may come.
        """
        with self._changed:
            if self._running:
                return self._policy.take() if self._policy.is_full else []
            while not self._stopping:
                patience_s = self._policy.patience_s(self._clock())
                if patience_s == 0:
                    break
                self._changed.wait(patience_s)
            return self._policy.take()

    def _begin(self, batch: list[Item]) -> None:
        launched_at_s = self._clock()
        try:
            wait = self._launch([item.pixels_CHW for item in batch])
        except Exception as e:  # noqa: BLE001 - engines raise what they like
            self._spare_neighbours(batch, e)
            return
        self._running.append(Running(batch, wait, launched_at_s))

    def _finish(self, running: Running) -> None:
        batch = running.items
        try:
            embeddings_ND = running.wait()
            if len(embeddings_ND) != len(batch):
                msg = f"{len(batch)} images gave {len(embeddings_ND)} embeddings"
                raise InferenceError(msg)  # noqa: TRY301 - handled like any other failure of a batch
        except Exception as e:  # noqa: BLE001 - engines raise what they like
            self._spare_neighbours(batch, e)
            return
        # The device took it up when it was done with the one before.
        started_s = max(running.launched_at_s, self._free_at_s)
        self._free_at_s = self._clock()
        infer_ms = (self._free_at_s - started_s) * 1000
        with self._changed:
            self._sizes[len(batch)] += 1
        for item, embedding_D in zip(batch, embeddings_ND, strict=True):
            wait_ms = (started_s - item.ready_at_s) * 1000
            item.future.set_result(Inferred(embedding_D, wait_ms, infer_ms, len(batch)))
        log.debug("batch.done", size=len(batch), infer_ms=round(infer_ms, 3))

    def _finish_all(self) -> None:
        while self._running:
            self._finish(self._running.popleft())

    def _spare_neighbours(self, batch: list[Item], error: Exception) -> None:
        """Run the images of a failed batch one by one, so that only the culprit fails."""
        if isinstance(error, DeviceMemoryError) and len(batch) > 1:
            self._halve(batch)
            return
        if len(batch) > 1:
            log.warning("batch.failed", size=len(batch), error=str(error))
            # Of those that run alone each is awaited at once: nothing older may still wait.
            self._finish_all()
            for item in batch:
                self._begin([item])
                self._finish_all()
            return
        failure = error if isinstance(error, InferenceError) else InferenceError()
        failure.__cause__ = failure.__cause__ or (error if failure is not error else None)
        log.error("image.failed", stage="infer", exc_info=error)
        batch[0].future.set_exception(failure)

    def _halve(self, batch: list[Item]) -> None:
        """Run a batch that does not fit into memory in parts, and let no other be as large."""
        # What runs beside it holds memory, too.
        self._finish_all()
        size = len(batch) // 2
        with self._changed:
            self._policy.shrink(size)
            self._halvings += 1
        log.error("batch.out_of_memory", size=len(batch), max_batch=size)
        for start in range(0, len(batch), size):
            self._begin(batch[start : start + size])
            self._finish_all()

    def _die(self) -> None:
        """Fail everything at hand, and let everything that comes later fail."""
        with self._changed:
            self._died = True
        self._fail(self._unresolved)
        if self._on_death is not None:
            self._on_death()

    def _fail(self, batch: list[Item]) -> None:
        """Fail those of `batch` that have no embedding yet, and all that is ready."""
        with self._changed:
            while more := self._policy.take():
                batch = [*batch, *more]
        for item in batch:
            if not item.future.done():
                item.future.set_exception(_thread_gone())


def _thread_gone() -> WorkerGoneError:
    return WorkerGoneError("the worker's inference thread has ended")
