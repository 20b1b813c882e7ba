"""One delivery of a chunk's message: what its task, the result backend and Celery's request share.

::

    task thread   run: goes_with_result? --> result backend: stored and acknowledged --+
                                                                                       |
    event loop    Leases.ack: nothing is left to do in Redis <-------------------------+
"""

from __future__ import annotations

from typing import Any, Final

from worker.contract.messages import ChunkResult

# Where it is in Celery's request, and in the dict that a task has of it.
DELIVERY: Final = "delivery"


class Delivery:
    """A message that was taken, by its delivery tag. Each field is set by one thread, read later.

    `event_fields` go into the event of success. With `goes_with_result` the message may be
    acknowledged in the step that stores the result; `is_acked` says that it was.
    """

    __slots__ = ("event_fields", "goes_with_result", "is_acked", "tag")

    def __init__(self, tag: str = "") -> None:
        self.tag: Final = tag
        self.event_fields: dict[str, Any] = {}
        self.goes_with_result = False
        self.is_acked = False

    @property
    def ack_tag(self) -> str:
        """The tag to be acknowledged with the result, or "": then Celery acknowledges it later."""
        return self.tag if self.goes_with_result else ""


class Tagged:
    """What a task returns: a chunk's result. Celery shows it to people by this class's repr.

    Of the result itself it would write out dicts and lists for every chunk, to cut them off.
    """

    __slots__ = ("result",)

    def __init__(self, result: ChunkResult) -> None:
        self.result: Final = result

    def __repr__(self) -> str:
        """Return how many images there are, and how many failed."""
        return f"<{len(self.result.images)} images, {self.result.failed} failed>"
