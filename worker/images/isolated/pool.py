"""Images -> pixels, in child processes: the worker's side.

::

    any thread   submit --> waiting --orders--> decode processes --replies--> thread "decoders"
                                                                                    |
                                             on_done of each image <----------------+

A process that takes too long for an image is killed and replaced, and that image fails. If one ends
on its own, the image that it had in hand is tried again, alone. All others go to other processes.
"""

from __future__ import annotations

import os
import selectors
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import structlog

from worker.errors import (
    DecoderCrashError,
    DecoderStartError,
    DecodeTimeoutError,
    ImageError,
    WorkerGoneError,
)
from worker.images.decoder import DecodeConfig, DecodeRequest, DecoderFigures, Done
from worker.images.isolated.fork_server import ForkServer
from worker.images.isolated.limits import allow_handles
from worker.images.isolated.member import Member
from worker.images.isolated.staff import Staff
from worker.images.isolated.wire import stored

# An image that so many processes have ended with is not tried again.
MAX_CRASHES: Final = 3
# How often processes are looked at, in parts of the deadline.
_LOOKS: Final = 20
# So many in a row: nothing can be decoded here any more.
_MAX_FAILED_STARTS: Final = 3
_MAX_IDLE_ENDS: Final = 20

log = structlog.get_logger()


class DecodePool:
    """Decode processes and the images that wait for them. Any thread may submit."""

    kind: Final = "processes"

    def __init__(
        self,
        config: DecodeConfig,
        deadline_s: float,
        on_death: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what an image may take; `on_death` is called if no process can be started."""
        self._config = config
        self._deadline_s = deadline_s
        self._on_death = on_death
        # The decode processes note times on the same clock.
        self._clock = clock
        self._server = ForkServer(config)
        # Guards what follows.
        self._changed = threading.Condition()
        self._staff = Staff(clock)
        self._undone = 0
        self._is_stopping = False
        self._has_died = False
        self._timeouts = 0
        self._crashes = 0
        # Processes that have ended before their first image, since one was answered.
        self._idle_ends = 0
        self._selector = selectors.DefaultSelector()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="decoders", daemon=True)

    @property
    def figures(self) -> DecoderFigures:
        """What happened to the processes since the start."""
        return DecoderFigures(self._timeouts, self._crashes)

    @property
    def died(self) -> bool:
        """Whether nothing can be decoded any more: no process can be started."""
        return self._has_died

    def launch(self) -> None:
        """Begin to load what the processes need, in the background; `start` says if it cannot."""
        allow_handles()
        with suppress(DecoderStartError):
            self._server.start()

    def start(self) -> None:
        """Start the processes: as many as decode at once, and one that is for urgent images.

        Raises:
            DecoderStartError: they cannot be started.
        """
        self._server.wait()
        self._selector.register(self._bell, selectors.EVENT_READ)
        for number in range(self._config.decoders + 1):
            self._add(urgent_only=number == self._config.decoders)
        self._thread.start()

    def stop(self) -> None:
        """Decode what was submitted, then end the processes; harmless when done twice."""
        with self._changed:
            self._is_stopping = True
            self._ring()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()
        self._close()

    def submit(self, requests: Sequence[DecodeRequest], *, urgent: bool = False) -> None:
        """Let images be decoded: each request's `on_done` is called, from any thread."""
        for request in requests:
            request.is_urgent = urgent
            if not request.path:
                request.handle, request.data = stored(request.data), b""
        with self._changed:
            self._undone += len(requests)
            if not (self._is_stopping or self._has_died):
                self._staff.waiting.add(requests)
                self._staff.feed()
                return
        self._finish([Done(request, error=WorkerGoneError()) for request in requests])

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException:
            log.exception("decoders.failed")
            self._die("the thread of the decode processes has failed")

    def _loop(self) -> None:
        """Hear what the processes say, and look at those that say nothing."""
        look_s = self._deadline_s / _LOOKS
        looked_at_s = self._clock()
        while not (self._is_stopping and not self._undone):
            events = self._selector.select(look_s)
            for key, _ in events:
                if key.data is None:
                    os.eventfd_read(self._bell)
                else:
                    self._hear(key.data)
            if (now_s := self._clock()) - looked_at_s >= look_s:
                looked_at_s = now_s
                self._end_overdue(now_s)

    def _hear(self, member: Member) -> None:
        try:
            with self._changed:
                done, put_back = member.receive()
                for request in put_back:
                    self._staff.waiting.put_back(request, self._clock())
                self._staff.feed()
        except (EOFError, OSError):
            self._replace(member)
            return
        self._idle_ends = 0
        for one in done:
            self._staff.waiting.pace.note((one.read_ms or 0.0) + (one.decode_ms or 0.0))
        self._finish(done)

    def _end_overdue(self, now_s: float) -> None:
        """Replace the processes that have an image for too long; it fails if they are at it.

        Else they were stopped, and the image is not at fault.
        """
        for member in [*self._staff.members]:
            # One that has answered, or has ended on its own, is heard next.
            if member.at_it_s(now_s) > self._deadline_s and not member.handles.replies.poll():
                late = DecodeTimeoutError(self._deadline_s) if member.is_at_work else None
                self._replace(member, late)

    def _replace(self, member: Member, timeout: ImageError | None = None) -> None:
        """Put a new process in the place of one that has ended, or is late and is killed."""
        done: list[Done] = []
        self._selector.unregister(member.handles.replies)
        with self._changed:
            self._staff.members.remove(member)
            in_hand, others = member.left()
            member.handles.kill()
            if in_hand is not None:
                done += self._judge(in_hand, timeout)
            for request in reversed(others):
                self._staff.waiting.add_again(request)
        self._log(timeout, in_hand)
        self._idle_ends += not member.handles.shared.progress().begun
        if reason := self._add_again(member):
            self._die(reason)
        else:
            with self._changed:
                self._staff.feed()
        self._finish(done)

    def _judge(self, in_hand: DecodeRequest, timeout: ImageError | None) -> list[Done]:
        """Return the image that a process has ended with if it has failed; else it waits again."""
        in_hand.crashes += 1
        if timeout is not None:
            self._timeouts += 1
            return [Done(in_hand, error=timeout)]
        self._crashes += 1
        if in_hand.crashes >= MAX_CRASHES:
            return [Done(in_hand, error=DecoderCrashError())]
        self._staff.waiting.add_again(in_hand)
        return []

    def _add(self, *, urgent_only: bool) -> None:
        """Start a process.

        Raises:
            DecoderStartError: also after the server was started anew.
        """
        for attempt in range(_MAX_FAILED_STARTS):
            try:
                if attempt:
                    self._server.stop()
                    self._server.start()
                    self._server.wait()
                handles = self._server.fork()
                member = Member(handles, urgent_only=urgent_only, clock=self._clock)
                break
            except DecoderStartError:
                if attempt + 1 == _MAX_FAILED_STARTS:
                    raise
        self._selector.register(member.handles.replies, selectors.EVENT_READ, member)
        with self._changed:
            self._staff.members.append(member)

    def _add_again(self, member: Member) -> str:
        """Start a process in the place of one that has ended; return why not, or nothing."""
        if self._idle_ends > _MAX_IDLE_ENDS:
            return f"{self._idle_ends} decode processes in a row ended before their first image"
        try:
            self._add(urgent_only=member.urgent_only)
        except DecoderStartError as e:
            return str(e)
        return ""

    def _die(self, reason: str) -> None:
        """Nothing can be decoded here any more: let other workers try."""
        log.error("decoders.gone", reason=reason)
        with self._changed:
            self._has_died = True
            lost = self._staff.waiting.clear()
            for member in self._staff.members:
                in_hand, others = member.left()
                lost += [in_hand, *others] if in_hand else others
                member.handles.kill()
            self._staff.members.clear()
        self._finish([Done(request, error=WorkerGoneError()) for request in lost])
        self._on_death()

    def _finish(self, done: Sequence[Done]) -> None:
        for one in done:
            if one.request.handle >= 0:
                os.close(one.request.handle)
            one.request.on_done(one)
        with self._changed:
            self._undone -= len(done)

    def _close(self) -> None:
        with self._changed:
            for member in self._staff.members:
                member.handles.close()
            self._staff.members.clear()
        self._server.stop()
        self._selector.close()
        if self._bell >= 0:
            os.close(self._bell)
            self._bell = -1

    def _ring(self) -> None:
        if self._bell >= 0:
            os.eventfd_write(self._bell, 1)

    def _log(self, timeout: ImageError | None, in_hand: DecodeRequest | None) -> None:
        path = os.fsdecode(in_hand.path) if in_hand else None
        if timeout is not None:
            log.error("decode.timeout", path=path, deadline_s=self._deadline_s)
        elif in_hand is not None:
            log.warning("decoder.ended", path=path, attempt=in_hand.crashes)
        else:
            log.warning("decoder.ended", reason="it had no image in hand")
