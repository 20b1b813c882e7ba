"""The one task: wire -> pipeline -> wire. All it knows of images is their number."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import redis
import structlog
from celery import Celery, Task
from celery.exceptions import Ignore, Reject

from worker.contract.deliveries import ChunkDoneError
from worker.contract.messages import TASK, Chunk, ChunkResult, MessageError
from worker.errors import WorkerGoneError

if TYPE_CHECKING:
    from worker.tagger import Tagger


log = structlog.get_logger()


def register(app: Celery, tagger: Tagger, clock: Callable[[], float] = time.time) -> Task:
    """Add the task to `app`; it works on `tagger`, which the bootstep starts before tasks come."""

    class TagTask(Task):
        """Settles a chunk once its result is stored, not before."""

        # Celery writes out each result to this length, for its log and for Flower.
        resultrepr_maxsize = 64

        def on_success(self, retval: Any, _task_id: str, args: Any, _kwargs: Any) -> None:
            """Free what the chunk needs no more. Celery calls this after it stored the result."""
            result = ChunkResult.from_wire(retval) if _came_again(self.request) else None
            try:
                tagger.settle(Chunk.from_wire(args[0]), result, again=result is not None)
            except redis.RedisError as e:
                # An error here would be taken for the task's. What is left goes in its time.
                log.warning("chunk.unsettled", error=str(e))

    # `throws`: a message that is no chunk is the sender's fault; a line tells it, no traceback.
    @app.task(name=TASK, base=TagTask, throws=(MessageError,), bind=True)
    def tag(self: Task, wire: dict[str, Any]) -> dict[str, Any]:
        received_at_s = clock()
        try:
            chunk = Chunk.from_wire(wire)
        except MessageError as e:
            tagger.bury(self.request.id, wire, e)
            raise
        try:
            attempt = tagger.tag_again if _came_again(self.request) else tagger.tag
            return attempt(chunk, received_at_s).to_wire()
        except ChunkDoneError as e:
            tagger.settle(chunk, again=True)
            raise Ignore from e
        except (redis.RedisError, WorkerGoneError) as e:
            # Nothing is known of the images, so back to the queue.
            raise Reject(e, requeue=True) from e

    return tag


def _came_again(request: Any) -> bool:
    """Whether the broker delivers this message not for the first time."""
    return bool((request.delivery_info or {}).get("redelivered"))
