"""Starts decode processes, each a copy of one that has everything loaded."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection
from typing import Final, NamedTuple

import msgspec

from worker.contract.local.subprocesses import start_child, stop_child
from worker.errors import DecoderStartError
from worker.images.decoder import DecodeConfig
from worker.images.isolated.limits import die_with_parent
from worker.images.isolated.wire import (
    SharedPixels,
    shared_bytes,
)

READY: Final = b"ready"
# Importing torch from a slow disk.
_START_S: Final = 120.0
# A fork.
_FORK_S: Final = 10.0
_GRACE_S: Final = 2.0
# The number of a process, or why there is none.
_REPLY_BYTES: Final = 256
# What its libraries need; no passwords, and no device.
_PASSED_ON: Final = ("PATH", "LANG", "LANGUAGE", "TZ", "TMPDIR", "HOME", "VIRTUAL_ENV")
_PASSED_ON_PREFIXES: Final = ("PYTHON", "LD_", "LC_", "COVERAGE")


class Handles(NamedTuple):
    """A decode process, by what its worker holds of it."""

    orders: socket.socket
    replies: Connection
    shared: SharedPixels
    pidfd: int
    pid: int

    def send(self, message: bytes, handles: list[int]) -> None:
        """Send an order, and the handles of its bytes.

        Raises:
            OSError: the process has ended.
        """
        socket.send_fds(self.orders, [message], handles)

    def kill(self) -> None:
        """End the process whatever it does, and let go of it; harmless if it has ended."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        self.close()

    def close(self) -> None:
        """Let the process end when it has done what it has."""
        self.orders.close()
        self.replies.close()
        os.close(self.pidfd)


class ForkServer:
    """The process that others are forked from.

    To be started on a thread that lives as long as it: the kernel ends it with that thread.
    """

    def __init__(self, config: DecodeConfig) -> None:
        self._config = config
        self._child: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def start(self) -> None:
        """Begin to start it; the first `fork` waits until it is ready.

        Raises:
            DecoderStartError: the system starts no process: of its user, there are too many.
        """
        global _forked_early
        if _forked_early is not None:
            self._control, _forked_early = _forked_early, None
            self._control.send(msgspec.msgpack.encode(self._config))
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.send(msgspec.msgpack.encode(self._config))
        argv = [sys.executable, "-m", "worker.images.isolated.server", str(theirs.fileno())]
        with theirs:
            try:
                self._child = start_child(
                    argv, env=_environment(), pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL
                )
            except OSError as e:
                ours.close()
                raise DecoderStartError(e) from e
        self._control = ours

    def wait(self) -> None:
        """Wait until it is ready; start it if it could not be started before.

        Raises:
            DecoderStartError: it is not.
        """
        if self._control is None:
            self.start()
        self._receive(READY, _START_S)

    def fork(self) -> Handles:
        """Return a new decode process.

        Raises:
            DecoderStartError: there is none.
        """
        with ExitStack() as theirs:
            ours, orders = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            theirs.enter_context(orders)
            reading, writing = os.pipe()
            theirs.callback(os.close, writing)
            memory = os.memfd_create("wanwu-pixels")
            theirs.callback(os.close, memory)
            os.ftruncate(memory, shared_bytes(self._config.preprocessing))
            shared = SharedPixels(memory, self._config.preprocessing)
            replies = Connection(reading, writable=False)
            try:
                pidfd, pid = self._ask([orders.fileno(), writing, memory])
            except DecoderStartError:
                ours.close()
                replies.close()
                raise
        return Handles(ours, replies, shared, pidfd, pid)

    def stop(self) -> None:
        """End it, and every process forked from it; harmless when done twice."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._child is not None:
            try:
                self._child.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                self._child.kill()
            stop_child(self._child, _GRACE_S)
            self._child = None

    def _ask(self, handles: list[int]) -> tuple[int, int]:
        """Let the server fork a process that has these handles; return its pidfd and its number."""
        control = self._open_control()
        try:
            socket.send_fds(control, [b"fork"], handles)
            control.settimeout(_FORK_S)
            message, pidfds, _, _ = socket.recv_fds(control, _REPLY_BYTES, 1)
        except OSError as e:
            raise DecoderStartError from e
        if not message:
            raise DecoderStartError
        if not pidfds:
            raise DecoderStartError(message.decode())
        return pidfds[0], int(message)

    def _receive(self, expected: bytes, timeout_s: float) -> None:
        control = self._open_control()
        control.settimeout(timeout_s)
        try:
            message = control.recv(len(expected))
        except OSError as e:
            raise DecoderStartError from e
        if message != expected:
            raise DecoderStartError

    def _open_control(self) -> socket.socket:
        if self._control is None:
            raise DecoderStartError
        return self._control


def fork_early() -> None:
    """Fork the server from this process, whose libraries are loaded already, for the next start.

    Loading them again takes seconds. It is done only while no other thread of Python's runs: a lock
    that one holds would be held in the copy for good. (OpenBLAS, which numpy starts threads of,
    ends them before a fork.) Else the server becomes a new process later.
    """
    global _forked_early  # noqa: PLW0603
    if sys.platform != "linux" or threading.active_count() > 1:
        return
    from worker.images.isolated.server import serve  # noqa: PLC0415 - loads torch

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent = os.getpid()
    try:
        child = os.fork()
    except OSError:  # Too many processes: `ForkServer.start` tries once more, and says why.
        ours.close()
        theirs.close()
        return
    if child:
        theirs.close()
        _forked_early = ours
        return
    code = 1
    try:
        ours.close()
        os.setsid()
        os.environ.clear()
        die_with_parent(parent)
        serve(theirs)
        code = 0
    finally:
        os._exit(code)


_forked_early: socket.socket | None = None


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
    }
