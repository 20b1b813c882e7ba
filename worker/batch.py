"""Decoded images of all tasks -> micro-batches -> one inference thread. Where threads meet.

::

    decode threads --put--> Backlog --take--> inference thread --Future--> task threads
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import structlog

from worker.backlog import Backlog, Embeddings, Inferred, Item, Pixels
from worker.errors import InferenceError
from worker.measure import Clock

log = structlog.get_logger()


class Batcher:
    """Runs `infer` on batches in one thread. Every future handed out is resolved, whatever happens.

    One thread infers: two would contend for the cores and blur the timings.
    """

    def __init__(
        self,
        infer: Callable[[Sequence[Pixels]], Embeddings],
        max_batch: int,
        *,
        clock: Clock = time.monotonic,
        on_death: Callable[[], None] | None = None,
    ) -> None:
        self._infer = infer
        self._clock = clock
        self._on_death = on_death
        self._backlog = Backlog(max_batch)
        self._changed = threading.Condition()
        self._stopping = False
        self._died = False
        self._sizes: Counter[int] = Counter()
        self._thread = threading.Thread(target=self._live, name="inference", daemon=True)

    def start(self) -> None:
        """Start the inference thread."""
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

    def expect(self, images: int) -> None:
        """Announce images whose decoding begins: each must be followed by `put` or `forget`."""
        with self._changed:
            self._backlog.expect(images, self._clock())

    def forget(self) -> None:
        """Take back the announcement of one image: it could not be decoded."""
        with self._changed:
            if self._backlog.forget():
                self._changed.notify()

    def put(self, pixels_CHW: Pixels) -> Future[Inferred]:
        """Hand over an image that was announced; its future may fail with an `InferenceError`.

        Raises:
            RuntimeError: the batcher was stopped.
        """
        item = Item(pixels_CHW, self._clock(), Future())
        with self._changed:
            if self._stopping:
                msg = "the batcher was stopped"
                raise RuntimeError(msg)
            if self._died:
                item.future.set_exception(_thread_gone())
            elif self._backlog.put(item):
                self._changed.notify()
        return item.future

    def _live(self) -> None:
        batch: list[Item] = []
        try:
            while batch := self._next():
                self._run(batch)
        except BaseException as e:  # Nobody may wait for ever, whatever it was.
            log.critical("inference.died", exc_info=e)
            self._die(batch)

    def _next(self) -> list[Item]:
        """Wait for a batch that is worth taking; an empty one means stop."""
        with self._changed:
            while not self._stopping:
                patience_s = self._backlog.patience_s(self._clock())
                if patience_s == 0:
                    break
                self._changed.wait(patience_s)
            return self._backlog.take()

    def _run(self, batch: list[Item]) -> None:
        started_s = self._clock()
        try:
            embeddings_ND = self._infer([item.pixels_CHW for item in batch])
            if len(embeddings_ND) != len(batch):
                msg = f"{len(batch)} images gave {len(embeddings_ND)} embeddings"
                raise InferenceError(msg)  # noqa: TRY301 - handled like any other failure of a batch
        except Exception as e:  # noqa: BLE001 - engines raise what they like
            self._spare_neighbours(batch, e)
            return
        infer_ms = (self._clock() - started_s) * 1000
        with self._changed:
            self._sizes[len(batch)] += 1
        for item, embedding_D in zip(batch, embeddings_ND, strict=True):
            wait_ms = (started_s - item.ready_at_s) * 1000
            item.future.set_result(Inferred(embedding_D, wait_ms, infer_ms, len(batch)))
        log.debug("batch.done", size=len(batch), infer_ms=round(infer_ms, 3))

    def _spare_neighbours(self, batch: list[Item], error: Exception) -> None:
        """Run the images of a failed batch one by one, so that only the culprit fails."""
        if len(batch) > 1:
            log.warning("batch.failed", size=len(batch), error=str(error))
            for item in batch:
                self._run([item])
            return
        failure = error if isinstance(error, InferenceError) else InferenceError()
        failure.__cause__ = failure.__cause__ or (error if failure is not error else None)
        log.error("image.failed", stage="infer", exc_info=error)
        batch[0].future.set_exception(failure)

    def _die(self, batch: list[Item]) -> None:
        """Fail everything at hand, and let everything that comes later fail."""
        with self._changed:
            self._died = True
        self._fail(batch)
        if self._on_death is not None:
            self._on_death()

    def _fail(self, batch: list[Item]) -> None:
        """Fail those of `batch` that have no embedding yet, and all that is ready."""
        with self._changed:
            while more := self._backlog.take():
                batch = [*batch, *more]
        for item in batch:
            if not item.future.done():
                item.future.set_exception(_thread_gone())


def _thread_gone() -> InferenceError:
    return InferenceError("the worker's inference thread has ended")
