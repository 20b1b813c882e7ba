"""Decoded images of all tasks -> micro-batches -> one inference thread. Where threads meet.

::

    decode threads --put--> BatchPolicy --take--> inference thread --on_done--> task threads

Where a device works on its own, on a GPU or in streams, the thread launches a full batch while
another runs: the device does not wait while results are handed out and images are stacked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from worker.errors import WorkerGoneError
from worker.pipeline.batch_policy import BatchPolicy, Item, Outcome, Pixels
from worker.pipeline.batch_runner import BatchRunner, Launch
from worker.pipeline.stats import Clock

# Batches that may be under way at a time if the engine is pipelined.
_MOST_RUNNING: Final = 2

log = structlog.get_logger()


class Batcher:
    """Runs batches in one thread. Every image that is put is resolved once, whatever happens.

    One thread infers: two would contend for the cores and blur the timings.
    """

    def __init__(
        self,
        launch: Launch,
        max_batch: int,
        *,
        clock: Clock = time.monotonic,
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        """Take what begins a batch; `on_death` is called if the thread ends on its own."""
        self._clock = clock
        self._on_death = on_death
        self._policy = BatchPolicy(max_batch)
        self._runner = BatchRunner(launch, clock, self.shrink)
        # Guards the policy and what follows.
        self._changed = threading.Condition()
        self._is_pipelined = False
        self._is_latency_mode = False
        self._is_stopping = False
        self._has_died = False
        self._unresolved: list[Item] = []
        self._thread = threading.Thread(target=self._loop, name="inference", daemon=True)

    def start(self, *, pipelined: bool = False) -> None:
        """Start the inference thread; if `pipelined`, two batches may be under way at a time."""
        self._is_pipelined = pipelined
        self._thread.start()

    def stop(self) -> None:
        """Infer what is ready, then end the thread; later puts are refused. Harmless twice."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        # The thread itself may be the one that asks, by way of `on_death`.
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()
        self._fail([])  # Only a thread that was never started leaves anything.

    @property
    def died(self) -> bool:
        """Whether the inference thread ended on its own: no image can be tagged here any more."""
        return self._has_died

    def sizes(self) -> dict[int, int]:
        """Return how many batches of each size have run."""
        return self._runner.sizes()

    @property
    def halvings(self) -> int:
        """How often a batch did not fit into the device's memory."""
        return self._runner.halvings

    @property
    def max_batch(self) -> int:
        """The largest batch: as asked for, or what fits."""
        return self._policy.max_batch

    def set_latency_mode(self, wanted: bool) -> None:  # noqa: FBT001 - as whether there is a reason
        """Launch nothing ahead while urgent images may come: they would have to wait for it too."""
        self._is_latency_mode = wanted

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
                "inferring": self._runner.images,
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

    def put(
        self, pixels_CHW: Pixels, on_done: Callable[[Outcome], object], *, urgent: bool = False
    ) -> None:
        """Hand over an image that was announced; `on_done` gets its embedding, by any thread.

        Or an `InferenceError`; or a `WorkerGoneError`, if the thread has ended on its own.

        Raises:
            WorkerGoneError: the batcher was stopped.
        """
        item = Item(pixels_CHW, self._clock(), on_done)
        with self._changed:
            if self._is_stopping:
                msg = "the batcher was stopped"
                raise WorkerGoneError(msg)
            has_died = self._has_died
            if not has_died and self._policy.put(item, urgent=urgent):
                self._changed.notify()
        if has_died:
            item.resolve(_thread_gone())

    def _loop(self) -> None:
        runner = self._runner
        try:
            while (batch := self._next()) or runner.running:
                self._unresolved = [one for one in self._unresolved if not one.is_done]
                self._unresolved += batch
                if batch:
                    runner.begin(batch)
                if runner.running and not (batch and self._may_launch_another):
                    runner.finish_oldest()
        except BaseException as e:  # Nobody may wait for ever, whatever it was.
            log.critical("inference.died", exc_info=e)
            self._die()

    @property
    def _may_launch_another(self) -> bool:
        is_ahead = self._is_pipelined and not self._is_latency_mode
        return is_ahead and self._runner.running < _MOST_RUNNING

    def _next(self) -> list[Item]:
        """Wait for a batch that is worth taking; an empty one means stop.

        While one runs, only a full one is worth it, and nothing is waited for: fewer images than
        that lose no time until the device is free, and more may come.
        """
        with self._changed:
            if self._runner.running:
                return self._policy.take() if self._policy.is_full else []
            while not self._is_stopping:
                patience_s = self._policy.patience_s(self._clock())
                if patience_s == 0:
                    break
                self._changed.wait(patience_s)
            return self._policy.take()

    def _die(self) -> None:
        """Fail everything at hand, and let everything that comes later fail."""
        with self._changed:
            self._has_died = True
        self._fail(self._unresolved)
        self._on_death()

    def _fail(self, batch: list[Item]) -> None:
        """Fail those of `batch` that have no embedding yet, and all that is ready."""
        with self._changed:
            while more := self._policy.take():
                batch = [*batch, *more]
        for item in batch:
            item.resolve(_thread_gone())


def _thread_gone() -> WorkerGoneError:
    return WorkerGoneError("the worker's inference thread has ended")
