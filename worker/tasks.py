"""The one task: wire -> pipeline -> wire. All it knows of images is their number."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import redis
from celery import Celery, Task
from celery.exceptions import Reject

from worker.contract.messages import TASK, Chunk, MessageError

if TYPE_CHECKING:
    from worker.tagger import Tagger


def register(app: Celery, tagger: Tagger, clock: Callable[[], float] = time.time) -> Task:
    """Add the task to `app`; it works on `tagger`, which the bootstep starts before tasks come."""

    class TagTask(Task):
        """Settles a chunk once its result is stored, not before."""

        # Celery writes out each result to this length, for its log and for Flower.
        resultrepr_maxsize = 64

        def on_success(self, _retval: Any, _task_id: str, args: Any, _kwargs: Any) -> None:
            """Free what the chunk needs no more. Celery calls this after it stored the result."""
            tagger.settle(Chunk.from_wire(args[0]))

    # `throws`: a message that is no chunk is the sender's fault; a line tells it, no traceback.
    @app.task(name=TASK, base=TagTask, throws=(MessageError,))
    def tag(wire: dict[str, Any]) -> dict[str, Any]:
        received_at_s = clock()
        try:
            return tagger.tag(Chunk.from_wire(wire), received_at_s).to_wire()
        except redis.RedisError as e:
            # Redis stayed away for long: nothing is known of the images, so back to the queue.
            raise Reject(e, requeue=True) from e

    return tag
