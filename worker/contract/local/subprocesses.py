"""Child processes that never outlive the command that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import IO, Any, Final, Self

_PR_SET_PDEATHSIG: Final = 1
_POLL_S: Final = 0.02
_FOLLOW_S: Final = 0.1


class ManagedProcess:
    """A child process with its log, for the life of a `with` block.

    What the child writes goes to a file without a name, which vanishes with both processes; it can
    be read while the child runs.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        grace_s: float,
        env: Mapping[str, str] | None = None,
        stdin: bytes | IO[bytes] = b"",
        separate_output: bool = False,
    ) -> None:
        """Take the command; nothing is started yet.

        `grace_s` is how long the child may take to end once it was asked to. `stdin` is what it
        reads: a file, or some kilobytes (more would not fit into a pipe that nobody reads yet).
        With `separate_output` only standard error is the log, and `output` returns the rest.
        """
        self._argv = [*argv]
        self._grace_s = grace_s
        self._env = env
        self._stdin = stdin
        self._separate_output = separate_output
        self._log: IO[bytes] | None = None
        self._output: IO[bytes] | None = None
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the child and return at once.

        Raises:
            OSError: the program cannot be started.
        """
        self._log = tempfile.TemporaryFile(prefix="wanwu-log-")  # noqa: SIM115 - closed in stop
        if self._separate_output:
            self._output = tempfile.TemporaryFile(prefix="wanwu-out-")  # noqa: SIM115
        self._child = start_child(
            self._argv,
            env=self._env,
            stdin=subprocess.PIPE if isinstance(self._stdin, bytes) else self._stdin,
            stdout=self._output or self._log,
            stderr=self._log,
        )
        if isinstance(self._stdin, bytes) and (pipe := self._child.stdin):
            # A child that has ended already says why in its log.
            with suppress(BrokenPipeError), pipe:
                pipe.write(self._stdin)

    @property
    def pid(self) -> int | None:
        """The process id; None before the start."""
        return self._child.pid if self._child else None

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while the child runs."""
        return self._child.poll() if self._child else None

    @property
    def is_running(self) -> bool:
        """Whether the child was started and has not ended."""
        return self._child is not None and self._child.poll() is None

    def wait_until(
        self, is_ready: Callable[[], bool], timeout_s: float, pause_s: float = _POLL_S
    ) -> bool:
        """Return True once `is_ready`; False if the child has ended or `timeout_s` have passed.

        `is_ready` is asked every `pause_s` seconds; afterwards `is_running` tells the two apart.
        """
        deadline_s = time.monotonic() + timeout_s
        while self.is_running and time.monotonic() < deadline_s:
            if is_ready():
                return True
            time.sleep(pause_s)
        return False

    def log(self) -> str:
        """Return all that the child has logged so far."""
        return _content(self._log).decode(errors="replace")

    def last_line(self, default: str = "") -> str:
        """Return the last line of the log: mostly why the child has ended."""
        lines = self.log().strip().splitlines()
        return lines[-1].strip() if lines else default

    def follow(self) -> Iterator[str]:
        """Yield the lines of the log as they come, without their ends, until the child ends."""
        begun, rest = 0, b""
        while True:
            # Asked first: what the child writes last is read in the same turn.
            is_running = self.is_running
            fresh = _content(self._log, begun)
            begun += len(fresh)
            *lines, rest = (rest + fresh).split(b"\n")
            yield from (line.decode(errors="replace").rstrip("\r") for line in lines)
            if not is_running:
                break
            time.sleep(_FOLLOW_S)
        if rest:
            yield rest.decode(errors="replace")

    def output(self, timeout_s: float | None = None) -> bytes:
        """Wait until the child has ended and return its standard output.

        Raises:
            TimeoutError: it has not ended within `timeout_s`.
        """
        if self._child is None:
            return b""
        try:
            self._child.wait(timeout_s)
        except subprocess.TimeoutExpired as e:
            msg = f"{self._argv[0]} has not ended within {timeout_s} s"
            raise TimeoutError(msg) from e
        return _content(self._output)

    def stop(self) -> None:
        """End the child and forget its log; harmless when done twice, or before the start."""
        if self._child is not None:
            stop_child(self._child, self._grace_s)
        for file in (self._log, self._output):
            if file is not None:
                file.close()


def start_child(argv: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start `argv` in a session of its own, so that Ctrl-C reaches only us and we stop it in order.

    Where the kernel can (Linux), the child is killed even if we are killed ourselves.
    """
    return subprocess.Popen(  # noqa: S603 - argv is built by this program, no shell takes part
        argv,
        start_new_session=True,
        preexec_fn=_before_exec(),  # noqa: PLW1509 - system calls, nothing that locks
        **options,
    )


def stop_child(child: subprocess.Popen[bytes], grace_s: float) -> int:
    """Ask the child to end, kill it after `grace_s` seconds, and return its exit code."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(grace_s)
        except subprocess.TimeoutExpired:
            child.kill()
    return child.wait()


def _content(file: IO[bytes] | None, offset: int = 0) -> bytes:
    """Return a file from `offset` on; its position is the child's, and stays where it is."""
    if file is None or file.closed:
        return b""
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), max(0, size - offset), offset)


def _before_exec() -> Callable[[], None]:
    # Loaded before the fork: between fork and exec nothing may be imported or allocated at length.
    prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None

    def prepare() -> None:
        # What this process ignores, a program that it starts would ignore, too, and then not end.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return prepare
