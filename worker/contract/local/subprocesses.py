"""Child processes that never outlive the command that started them."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Final

_PR_SET_PDEATHSIG: Final = 1


def start_child(argv: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start `argv` in a session of its own, so that Ctrl-C reaches only us and we stop it in order.

    Where the kernel can (Linux), the child is killed even if we are killed ourselves.
    """
    return subprocess.Popen(  # noqa: S603 - argv is built by this program, no shell takes part
        argv,
        start_new_session=True,
        preexec_fn=_die_with_parent(),  # noqa: PLW1509 - one system call, nothing that locks
        **options,
    )


def stop_child(child: subprocess.Popen[bytes], grace_s: float) -> int:
    """Ask the child to end, insist after `grace_s` seconds, and return its exit code."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(grace_s)
        except subprocess.TimeoutExpired:
            child.kill()
    return child.wait()


def _die_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    # Loaded before the fork: between fork and exec nothing may be imported or allocated at length.
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def ask_kernel() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return ask_kernel
