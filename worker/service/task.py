"""The Celery task: wire -> tagger -> wire. All it knows of images is their number."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import redis
import structlog
from celery import Celery, Task
from celery.exceptions import Ignore, Reject
from celery.worker.request import Request

from worker.contract.messages import TASK, Chunk, ChunkResult, ForeignIdError, MessageError
from worker.errors import WorkerGoneError
from worker.pipeline.result import event_fields
from worker.service.delivery import DELIVERY, Delivery, Tagged
from worker.service.delivery_counts import ChunkDoneError

if TYPE_CHECKING:
    from worker.service.tagger import Tagger

# The shortest run time that a rate is computed with.
_TICK_S: Final = 1e-6

log = structlog.get_logger()


class ChunkRequest(Request):
    """A message in this worker. Its success event carries the chunk's timings as well.

    No other message is needed for them. The task runs on a thread of the pool and has a copy of
    the request; both share the delivery that it fills.
    """

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        self.delivery = Delivery((message.properties or {}).get("delivery_tag") or "")
        self.request_dict[DELIVERY] = self.delivery

    def acknowledge(self) -> None:
        """Let the event loop acknowledge the message, or only forget it: see `Delivery`."""
        if self.delivery.is_acked:
            self.message.channel.qos.note_acked(self.delivery.tag)
        super().acknowledge()

    def send_event(self, type: str, **fields: Any) -> None:  # noqa: A002 - Celery's
        """Send an event, the one of success with the fields that the task has left."""
        if type == "task-succeeded" and (more := self.delivery.event_fields):
            more["images_per_s"] = round(more["images"] / max(fields["runtime"], _TICK_S), 1)
            fields |= more
        super().send_event(type, **fields)


class TagTask(Task):
    """Tags a chunk, and releases its blobs once its result is stored, not before."""

    name = TASK
    # Celery makes one for each message.
    Request = ChunkRequest
    # Celery logs such an error in one line, without a traceback: it is the sender's mistake.
    throws = (MessageError,)

    def __init__(self, tagger: Tagger, clock: Callable[[], float]) -> None:
        """Take what tags; it is started before the first message comes."""
        self._tagger = tagger
        self._clock = clock

    def run(self, wire: dict[str, Any]) -> Tagged:
        """Return the chunk's result, for our result backend.

        Raises:
            MessageError: this is no chunk, or the message's id is not the chunk's.
            Reject: nothing is known of the images; the chunk goes back to the queue.
            Ignore: an earlier delivery has stored the results.
        """
        received_at_s = self._clock()
        with _requeued_if_nothing_is_known():
            chunk = self._chunk_of(wire)
            redelivered = _is_redelivered(self.request)
            tag = self._tagger.tag_redelivered if redelivered else self._tagger.tag
            try:
                result = tag(chunk, received_at_s)
            except ChunkDoneError as e:
                self._tagger.release_blobs(chunk)
                raise Ignore from e
        # For `on_success`, which is called on this thread.
        self.request.chunk, self.request.chunk_result = chunk, result
        if (delivery := self.request.get(DELIVERY)) is not None:
            delivery.event_fields = event_fields(result)
            # Blobs are released in between: if this process ends then, the next one releases them.
            delivery.goes_with_result = not any(image.blob for image in chunk.images)
        return Tagged(result)

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:  # noqa: ARG002
        """Release the chunk's blobs. Celery calls this after it has stored the result."""
        chunk: Chunk = self.request.chunk
        result: ChunkResult = self.request.chunk_result
        try:
            self._tagger.release_blobs(chunk, result)
        except redis.RedisError as e:
            # Celery would take an error for the task's. What is left expires.
            log.warning("chunk.blobs_left", error=str(e))

    def _chunk_of(self, wire: dict[str, Any]) -> Chunk:
        task_id = self.request.id
        try:
            chunk = self._tagger.chunk_of(wire)
        except MessageError as e:
            self._tagger.dead_letter(task_id, wire, e)
            raise
        try:
            chunk.check_task_id(task_id)
        except ForeignIdError as e:
            self._tagger.dead_letter_foreign(task_id, chunk, e)
            raise
        return chunk


def register(app: Celery, tagger: Tagger, clock: Callable[[], float] = time.time) -> Task:
    """Add the task to `app`; it works on `tagger`, which the bootstep starts before tasks come."""
    return app.register_task(TagTask(tagger, clock))


@contextmanager
def _requeued_if_nothing_is_known() -> Iterator[None]:
    """Send a chunk back to the queue when nothing is known of its images."""
    try:
        yield
    except (redis.RedisError, WorkerGoneError) as e:
        raise Reject(e, requeue=True) from e


def _is_redelivered(request: Any) -> bool:
    """Whether the broker delivers this message not for the first time."""
    return bool((request.delivery_info or {}).get("redelivered"))
