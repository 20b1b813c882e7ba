"""The images of a chunk while they are processed, and one wait until the last is done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

import redis
import structlog

from worker.contract.messages import ImageRef, Stamp
from worker.errors import ImageError, UnexpectedError, WorkerGoneError
from worker.pipeline.batch_policy import Inferred, Outcome
from worker.pipeline.stats import Stopwatch

log = structlog.get_logger()


def _nothing() -> None:
    pass


class ImageTask:
    """One image, its stopwatch, what the stages found out about it, and in the end its outcome."""

    __slots__ = ("key", "outcome", "ref", "release", "stamp", "thumbnail", "watch")

    def __init__(self, ref: ImageRef, watch: Stopwatch) -> None:
        self.ref: Final = ref
        self.watch: Final = watch
        # Its key in the embedding cache, if its embedding is to be put there.
        self.key: str | None = None
        self.stamp: Stamp | None = None
        self.thumbnail: str | None = None
        # Called when it is done: others may wait for what it holds.
        self.release: Callable[[], object] = _nothing
        self.outcome: Outcome

    def result(self) -> Inferred | ImageError:
        """Return the embedding of an image that is done, or the error that it fails with.

        Raises:
            redis.RedisError, WorkerGoneError: see `to_image_error`.
        """
        return self.outcome if isinstance(self.outcome, Inferred) else to_image_error(self.outcome)


class ChunkLatch:
    """Counts the images that are done. Any thread may complete one; one thread waits for all.

    A task's thread that awaited each image in turn would wake up for every one of them,
    and take the interpreter from the threads that decode: it needs them all, so it wakes once.
    """

    def __init__(
        self, image_tasks: Sequence[ImageTask], on_complete: Callable[[], None] = lambda: None
    ) -> None:
        """Take the images to wait for; `on_complete` is called after each."""
        self._on_complete = on_complete
        self._left = len(image_tasks)
        self._lock = threading.Lock()
        self._all_complete = threading.Event()

    def complete(self, image_task: ImageTask, outcome: Outcome) -> None:
        """Note the outcome of an image; once for each."""
        image_task.outcome = outcome
        image_task.release()
        with self._lock:
            self._left -= 1
            is_last = not self._left
        self._on_complete()
        if is_last:
            self._all_complete.set()

    def wait(self) -> None:
        """Wait until every image is done."""
        self._all_complete.wait()


def to_image_error(error: BaseException) -> ImageError:
    """Return the error that an image fails with when a stage has raised this one.

    Raises:
        redis.RedisError: Redis is away, so nothing is known of the image.
        WorkerGoneError: this worker is ending, so nothing is known of it either.
    """
    if isinstance(error, ImageError):
        return error
    if isinstance(error, (redis.RedisError, WorkerGoneError)):
        raise error
    # The one place for everything else, MemoryError too: a bug of ours or of a library, met on one
    # image, must not cost the images of the same chunk their results.
    log.error("image.failed", exc_info=error)
    return UnexpectedError()
