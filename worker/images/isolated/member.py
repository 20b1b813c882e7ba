"""One decode process as its worker sees it: what it has to do, and how far it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec

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


class Member:
    """A decode process and the orders that it has."""

    def __init__(self, handles: Handles, *, urgent_only: bool) -> None:
        self.handles: Final = handles
        self.urgent_only: Final = urgent_only
        self._orders: deque[tuple[DecodeRequest, ...]] = deque()
        # Images of orders that are answered, and the slots of the next order.
        self._answered = 0
        self._slot = 0
        # The image that the process had when it was last looked at, by its number, and for how
        # long the process had waited for a core then.
        self._seen: tuple[int, float] = (0, 0.0)

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
            Item(one.path, one.size_bytes, one.part, one.thumbnail_px, one.is_large)
            for one in requests
        )
        handles = [one.handle for one in requests if one.handle >= 0]
        # What it has is known before it is sent: if that fails, it is still to be done.
        self._orders.append(tuple(requests))
        self.handles.send(_encode(Order(self._slot, items)), handles)
        self._slot = (self._slot + ORDER_IMAGES) % (ORDER_IMAGES * ORDERS)

    @property
    def has_large(self) -> bool:
        """Whether it has a large image in memory, or one that was put back before."""
        return self.handles.shared.progress().is_large or any(
            one.is_large for order in self._orders for one in order
        )

    def receive(self) -> tuple[list[Done], list[DecodeRequest]]:
        """Return what has become of its oldest order: images that are done, others put back.

        Raises:
            EOFError, OSError: it has ended.
        """
        reply = _decode_reply(self.handles.replies.recv_bytes())
        requests, first = self._orders.popleft(), self._oldest_slot()
        self._answered += len(requests)
        done, put_back = [], []
        for slot, (request, outcome) in enumerate(
            zip(requests, reply.outcomes, strict=True), first
        ):
            if outcome.is_put_back:
                put_back.append(request)
            else:
                done.append(self._done(request, outcome, slot))
        return done, put_back

    def at_it_s(self, now_s: float) -> float:
        """Return for how long it has been at its image; 0 if it has none, or waits for others.

        What it spends waiting for a core does not count, up to two parts in three.
        """
        if not self._orders:
            return 0.0
        since_s, begun, _ = self.handles.shared.progress()
        if begun <= self._answered or since_s == PAUSED_S:
            return 0.0
        so_far_s = waited_s(self.handles.pid)
        if self._seen[0] != begun:
            self._seen = (begun, so_far_s)
        whole_s = now_s - since_s
        return max(whole_s - (so_far_s - self._seen[1]), whole_s / MAX_DEADLINES)

    def left(self) -> tuple[DecodeRequest | None, list[DecodeRequest]]:
        """Return the image that it has in hand, and all others that it has not answered."""
        requests = [request for order in self._orders for request in order]
        in_hand = self.handles.shared.progress().begun - self._answered - 1
        culprit = requests.pop(in_hand) if 0 <= in_hand < len(requests) else None
        return culprit, requests

    def _done(self, request: DecodeRequest, outcome: Outcome, slot: int) -> Done:
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
