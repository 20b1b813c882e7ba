"""A decode process: orders -> pixels in shared memory, one image after the other."""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any, Final

import msgspec

from worker.contract.messages import Failure
from worker.errors import DecodeMemoryError, ImageError, UnexpectedError
from worker.images.decoder import Attempt, DecodeConfig
from worker.images.isolated.pixel_locks import PixelLocks, PixelsTakenError
from worker.images.isolated.wire import (
    MAX_ORDER_BYTES,
    ORDER_IMAGES,
    PAUSED_S,
    Item,
    Order,
    Outcome,
    Progress,
    Reply,
    SharedPixels,
)
from worker.images.read_file import Original, read_file

# Two images of an order may have one, and what is written to a pipe in one piece has a limit.
MAX_TRACEBACK_CHARS: Final = 4_000

Answer = Callable[[bytes], None]
_decode_order: Final = msgspec.msgpack.Decoder(Order).decode
_encode: Final = msgspec.msgpack.Encoder().encode


class DecodeProcess:
    """What a decode process does until its worker closes the socket that the orders come by."""

    def __init__(
        self,
        config: DecodeConfig,
        orders: socket.socket,
        answer: Answer,
        shared: SharedPixels,
        lock: int,
    ) -> None:
        self._config = config
        self._orders = orders
        self._answer = answer
        self._shared = shared
        self._progress = Progress(PAUSED_S, 0, 0)
        self._locks = PixelLocks(
            lock,
            config.max_pixels,
            config.decoders,
            on_wait=lambda: self._note(since_s=PAUSED_S),
            on_go=lambda: self._note(since_s=time.monotonic()),
            on_hold=self._note,
        )

    def run(self) -> None:
        """Work until the worker is gone."""
        while True:
            message, handles, _, _ = socket.recv_fds(self._orders, MAX_ORDER_BYTES, ORDER_IMAGES)
            if not message:
                return
            order = _decode_order(message)
            outcomes = tuple(
                self._process(item, slot, handles)
                for slot, item in enumerate(order.items, order.slot)
            )
            self._answer(_encode(Reply(outcomes)))

    def _process(self, item: Item, slot: int, handles: list[int]) -> Outcome:
        """Read and decode an image; whatever happens, it gets an outcome, or the process ends."""
        self._note(since_s=time.monotonic(), begun=self._progress.begun + 1)
        attempt = Attempt(self._config, self._locks)
        failure: Failure | None = None
        lacks_locks, trace = 0, ""
        self._locks.waits = item.waits
        try:
            pixels_CHW = attempt.run(lambda: self._read(item, handles), item.thumbnail_px)
            self._shared.put(slot, pixels_CHW)
        except PixelsTakenError as e:
            lacks_locks = e.locks
        except Exception as e:  # noqa: BLE001 - whatever it is, that image fails alone
            failure = _failure_of(e)
            if failure.code == UnexpectedError.code:
                # Not written from here: where standard error is a file, it may not be written to.
                trace = traceback.format_exc()[-MAX_TRACEBACK_CHARS:]
        found = (attempt.stamp, attempt.thumbnail, attempt.read_ms, attempt.decode_ms)
        return Outcome(failure, *found, lacks_locks, trace)

    def _read(self, item: Item, handles: list[int]) -> Original:
        config = self._config
        if item.path:
            return read_file(item.path, item.part, config.roots, config.max_file_bytes)
        handle = handles.pop(0)
        try:
            # From its beginning, wherever the worker's own position is.
            return Original(os.pread(handle, item.size_bytes, 0), None)
        finally:
            os.close(handle)

    def _note(self, **changed: Any) -> None:
        self._progress = self._progress._replace(**changed)
        self._shared.note(self._progress)


def _failure_of(error: Exception) -> Failure:
    if isinstance(error, ImageError):
        return error.failure()
    if isinstance(error, MemoryError):
        return DecodeMemoryError().failure()
    return UnexpectedError().failure()
