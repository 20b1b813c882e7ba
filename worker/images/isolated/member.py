"""One decode process as its worker sees it: what it has to do, and how far it is."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog

from worker.errors import ReportedError
from worker.images.decoder import DecodeRequest, Done
from worker.images.isolated.fork_server import Handles
from worker.images.isolated.run_queue import waited_s
from worker.images.isolated.wire import (
    ORDER_IMAGES,
    ORDERS,
    PAUSED_S,
    Item,
    Order,
    Outcome,
    Reply,
)

# An image has failed after so many deadlines even if its process had no core for most of the time.
MAX_DEADLINES: Final = 3
_encode: Final = msgspec.msgpack.Encoder().encode
_decode_reply: Final = msgspec.msgpack.Decoder(Reply).decode

log = structlog.get_logger()


class Member:
    """A decode process and the orders that it has."""

    def __init__(
        self,
        handles: Handles,
        *,
        urgent_only: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the handles of a process, and the clock that it notes times on."""
        self.handles: Final = handles
        self._clock = clock
        self.urgent_only: Final = urgent_only
        self._orders: deque[tuple[DecodeRequest, ...]] = deque()
        # Images of orders that are answered, and the slots of the next order.
        self._answered = 0
        self._slot = 0
        # The image that the process had when it was last looked at, by its number, and for how
        # long the process had waited for a core then.
        self._seen: tuple[int, float] = (0, 0.0)
        # When it was last given an order while it had none, or has answered one.
        self._moved_at_s = clock()

    @property
    def orders(self) -> int:
        """How many orders it has."""
        return len(self._orders)

    def send(self, requests: Sequence[DecodeRequest]) -> None:
        """Give it an order.

        Raises:
            OSError: it has ended.
        """
        items = tuple(
            Item(one.path, one.size_bytes, one.part, one.thumbnail_px, one.locks > 0)
            for one in requests
        )
        handles = [one.handle for one in requests if one.handle >= 0]
        if not self._orders:
            self._moved()
        # What it has is known before it is sent: if that fails, it is still to be done.
        self._orders.append(tuple(requests))
        self.handles.send(_encode(Order(self._slot, items)), handles)
        self._slot = (self._slot + ORDER_IMAGES) % (ORDER_IMAGES * ORDERS)

    @property
    def locks(self) -> int:
        """How many pixel locks it holds, or was given an image for."""
        given = sum(one.locks for order in self._orders for one in order)
        return max(given, self.handles.shared.progress().locks)

    @property
    def may_wait(self) -> bool:
        """Whether it has an image that waits for pixel locks, if there are too few."""
        return any(one.locks for order in self._orders for one in order)

    def receive(self) -> tuple[list[Done], list[DecodeRequest]]:
        """Return what has become of its oldest order: images that are done, others put back.

        Raises:
            EOFError, OSError: it has ended.
        """
        reply = _decode_reply(self.handles.replies.recv_bytes())
        requests, first = self._orders.popleft(), self._oldest_slot()
        self._answered += len(requests)
        self._moved()
        done, put_back = [], []
        for slot, (request, outcome) in enumerate(
            zip(requests, reply.outcomes, strict=True), first
        ):
            if outcome.lacks_locks:
                request.locks = outcome.lacks_locks
                put_back.append(request)
            else:
                done.append(self._done(request, outcome, slot))
        return done, put_back

    def at_it_s(self, now_s: float) -> float:
        """Return for how long it has been at its image, or has not begun with it; 0 if it has none.

        What it spends waiting for a core does not count, up to two parts in three. While it waits
        for others, a longer time than they may take counts as one deadline.
        """
        if not self._orders:
            return 0.0
        since_s, begun, _ = self.handles.shared.progress()
        if since_s == PAUSED_S and begun > self._answered:
            return (now_s - self._moved_at_s) / (MAX_DEADLINES + 1)
        so_far_s = waited_s(self.handles.pid)
        if self._seen[0] != begun:
            self._seen = (begun, so_far_s)
        # A process that was stopped does not take its order.
        whole_s = now_s - (since_s if begun > self._answered else self._moved_at_s)
        return max(whole_s - (so_far_s - self._seen[1]), whole_s / MAX_DEADLINES)

    @property
    def is_at_work(self) -> bool:
        """Whether it decodes: neither waits for others nor has failed to take its order."""
        since_s, begun, _ = self.handles.shared.progress()
        return begun > self._answered and since_s != PAUSED_S

    def left(self) -> tuple[DecodeRequest | None, list[DecodeRequest]]:
        """Return the image that it has in hand, and all others that it has not answered."""
        requests = [request for order in self._orders for request in order]
        in_hand = self.handles.shared.progress().begun - self._answered - 1
        culprit = requests.pop(in_hand) if 0 <= in_hand < len(requests) else None
        return culprit, requests

    def _moved(self) -> None:
        self._moved_at_s = self._clock()
        # What it has waited for a core before does not count.
        self._seen = (-1, 0.0)

    def _done(self, request: DecodeRequest, outcome: Outcome, slot: int) -> Done:
        if outcome.traceback:
            path = os.fsdecode(request.path)
            log.error("decode.unexpected", path=path, traceback=outcome.traceback)
        error = ReportedError(outcome.error) if outcome.error else None
        pixels_CHW = None if error else self.handles.shared.take(slot)
        return Done(
            request,
            pixels_CHW,
            error,
            outcome.stamp,
            outcome.thumbnail,
            outcome.read_ms,
            outcome.decode_ms,
        )

    def _oldest_slot(self) -> int:
        """Return the first slot of the order that was just taken off."""
        behind = (len(self._orders) + 1) * ORDER_IMAGES
        return (self._slot - behind) % (ORDER_IMAGES * ORDERS)
