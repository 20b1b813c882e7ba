"""The one task: wire -> pipeline -> wire. All it knows of images is their number."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import redis
import structlog
from celery import Celery, Task
from celery.exceptions import Ignore, Reject
from celery.worker.request import Request

from worker.contract.messages import TASK, Chunk, ChunkResult, MessageError
from worker.errors import WorkerGoneError
from worker.pipeline.result import event_fields
from worker.service.redeliveries import ChunkDoneError

if TYPE_CHECKING:
    from worker.service.tagger import Tagger

# More chunks than any worker has in hand.
_MOST_TOLD: Final = 10_000
_TICK_S: Final = 1e-6

log = structlog.get_logger()


def register(app: Celery, tagger: Tagger, clock: Callable[[], float] = time.time) -> Task:
    """Add the task to `app`; it works on `tagger`, which the bootstep starts before tasks come."""
    told: OrderedDict[str, dict[str, Any]] = OrderedDict()

    class ChunkRequest(Request):
        """Lets the event of a chunk tell its timings, too: no other message is needed."""

        def send_event(self, type: str, **fields: Any) -> None:  # noqa: A002 - Celery's
            """Add them to the one that tells of success."""
            if type == "task-succeeded" and (more := told.pop(self.id, None)):
                more["images_per_s"] = round(more["images"] / max(fields["runtime"], _TICK_S), 1)
                fields |= more
            super().send_event(type, **fields)

    class TagTask(Task):
        """Settles a chunk once its result is stored, not before."""

        # For Celery, which makes one for each message.
        Request = ChunkRequest

        # Celery writes out each result to this length, for its log and for Flower.
        resultrepr_maxsize = 64

        def on_success(self, retval: Any, _task_id: str, args: Any, _kwargs: Any) -> None:
            """Free what the chunk needs no more. Celery calls this after it stored the result."""
            result = ChunkResult.from_wire(retval) if _came_again(self.request) else None
            try:
                tagger.release_blobs(Chunk.from_wire(args[0]), result)
            except redis.RedisError as e:
                # An error here would be taken for the task's. What is left goes in its time.
                log.warning("chunk.unsettled", error=str(e))

    # `throws`: a message that is no chunk is the sender's fault; a line tells it, no traceback.
    @app.task(name=TASK, base=TagTask, throws=(MessageError,), bind=True)
    def tag(self: Task, wire: dict[str, Any]) -> dict[str, Any]:
        received_at_s = clock()
        with _nothing_lost():
            try:
                chunk = Chunk.from_wire(wire)
            except MessageError as e:
                tagger.dead_letter(self.request.id, wire, e)
                raise
            try:
                attempt = tagger.tag_redelivered if _came_again(self.request) else tagger.tag
                result = attempt(chunk, received_at_s)
            except ChunkDoneError as e:
                tagger.release_blobs(chunk)
                raise Ignore from e
        told[self.request.id] = event_fields(result)
        # Of chunks whose results could not be stored nothing is told.
        if len(told) > _MOST_TOLD:
            told.popitem(last=False)
        return result.to_wire()

    return tag


@contextmanager
def _nothing_lost() -> Iterator[None]:
    """Send a chunk back to the queue when nothing is known of its images."""
    try:
        yield
    except (redis.RedisError, WorkerGoneError) as e:
        raise Reject(e, requeue=True) from e


def _came_again(request: Any) -> bool:
    """Whether the broker delivers this message not for the first time."""
    return bool((request.delivery_info or {}).get("redelivered"))
