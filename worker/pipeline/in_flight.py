"""The images of a chunk while they are under way, and one wait until the last has arrived."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final

import redis
import structlog

from worker.contract.messages import ImageRef, Stamp
from worker.errors import ImageError, UnexpectedError, WorkerGoneError
from worker.pipeline.batch_policy import Inferred
from worker.pipeline.stats import Stopwatch

Outcome = Inferred | BaseException

log = structlog.get_logger()


class ImageTask:
    """One image, its stopwatch, what was seen on the way, and in the end what became of it."""

    __slots__ = ("key", "outcome", "ref", "stamp", "thumbnail", "watch")

    def __init__(self, ref: ImageRef, watch: Stopwatch) -> None:
        self.ref: Final = ref
        self.watch: Final = watch
        # By what its content is known, if it is to be remembered.
        self.key: str | None = None
        self.stamp: Stamp | None = None
        self.thumbnail: str | None = None
        self.outcome: Outcome

    def result(self) -> Inferred | ImageError:
        """Return the embedding of an image that has landed, or the error that it fails with.

        Raises:
            redis.RedisError, WorkerGoneError: see `blame`.
        """
        return self.outcome if isinstance(self.outcome, Inferred) else to_image_error(self.outcome)


class ChunkLatch:
    """Counts the images that have arrived. Any thread may land one; one thread waits.

    A task's thread that awaited each image's future in turn would wake up for every one of them,
    and take the interpreter from the threads that decode: it needs them all, so it wakes once.
    """

    def __init__(
        self, image_tasks: Sequence[ImageTask], on_landed: Callable[[], None] = lambda: None
    ) -> None:
        """Take the images that are about to leave; `on_landed` is called after each landing."""
        self._on_landed = on_landed
        self._left = len(image_tasks)
        self._lock = threading.Lock()
        self._all_landed = threading.Event()

    def complete(self, image_task: ImageTask, outcome: Outcome) -> None:
        """Note what became of an image; once for each."""
        image_task.outcome = outcome
        with self._lock:
            self._left -= 1
            is_last = not self._left
        self._on_landed()
        if is_last:
            self._all_landed.set()

    def complete_with(self, image_task: ImageTask, future: Future[Inferred]) -> None:
        """Note what became of an image once its future knows."""
        future.add_done_callback(
            lambda done: self.complete(image_task, done.exception() or done.result())
        )

    def wait(self) -> None:
        """Wait until every image has landed."""
        self._all_landed.wait()


def to_image_error(error: BaseException) -> ImageError:
    """Return the error that an image fails with when a stage has raised this one.

    Raises:
        redis.RedisError: Redis is away, so nothing is known of the image.
        WorkerGoneError: the worker is at its end, so nothing is known of it either.
    """
    if isinstance(error, ImageError):
        return error
    if isinstance(error, (redis.RedisError, WorkerGoneError)):
        raise error
    # The one place for everything else, MemoryError too: a bug of ours or of a library, met on one
    # image, must not cost the images of the same chunk their results.
    log.error("image.failed", exc_info=error)
    return UnexpectedError()
