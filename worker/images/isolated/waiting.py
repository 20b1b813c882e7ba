"""The images that wait for a decode process, in the order in which they are to be decoded."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from worker.images.decoder import DecodeRequest
from worker.images.isolated.pace import Pace


class Waiting:
    """Urgent images, large ones and all others. Not for several threads: `DecodePool` locks it.

    Large are those that were put back because pixel locks were lacking.
    """

    def __init__(self) -> None:
        self.pace = Pace()
        self._urgent: deque[DecodeRequest] = deque()
        self.large: Final[deque[DecodeRequest]] = deque()
        self._others: deque[DecodeRequest] = deque()

    @property
    def has_urgent(self) -> bool:
        """Whether an urgent image waits."""
        return bool(self._urgent)

    @property
    def has_others(self) -> bool:
        """Whether another image waits."""
        return bool(self._others)

    def add(self, requests: Sequence[DecodeRequest]) -> None:
        """Let images wait behind all others of their kind; all are urgent, or none."""
        (self._urgent if requests and requests[0].is_urgent else self._others).extend(requests)

    def put_back(self, request: DecodeRequest, now_s: float) -> None:
        """Let an image wait until there are pixel locks for it."""
        request.put_back_at_s = now_s
        if request.is_urgent:
            self.large.appendleft(request)
        else:
            self.large.append(request)

    def add_again(self, request: DecodeRequest) -> None:
        """Let an image be the next one of its kind."""
        self._kind_of(request).appendleft(request)

    def next_urgent(self) -> list[DecodeRequest]:
        """Return the next urgent image: always alone."""
        return [self._urgent.popleft()]

    def next_others(self, free: int) -> list[DecodeRequest]:
        """Return the images of an order if so many processes are free.

        One that a process has ended with goes alone, so that it can end with no other.
        """
        waiting = self._others
        taken = [waiting.popleft()]
        wanted = self.pace.images(len(waiting) + 1, free)
        while not taken[0].crashes and len(taken) < wanted and not waiting[0].crashes:
            taken.append(waiting.popleft())
        return taken

    def clear(self) -> list[DecodeRequest]:
        """Return all that wait; none do afterwards."""
        kinds = (self._urgent, self.large, self._others)
        left = [request for kind in kinds for request in kind]
        for kind in kinds:
            kind.clear()
        return left

    def _kind_of(self, request: DecodeRequest) -> deque[DecodeRequest]:
        if request.locks:
            return self.large
        return self._urgent if request.is_urgent else self._others
