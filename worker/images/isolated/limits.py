"""What a decode process may use, and that it never outlives its worker."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_STDERR: Final = 2
# More images than a worker ever holds.
_HANDLES: Final = 65_536
# Of oom_score_adj: where memory is short, the kernel ends a decode process and not the worker.
_FIRST_TO_GO: Final = b"500"
# The bytes that libraries hold before the first image are not the images' fault.
_STATUS: Final = Path("/proc/self/status")


def limit_process(memory_bytes: int) -> None:
    """Limit this process to so many bytes beyond what it has, for its heap and its maps.

    Memory that is shared, and files that are mapped, do not count: RLIMIT_AS would count the
    address space that CUDA's libraries take.
    """
    most = data_bytes() + memory_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Nothing is written to a file.
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    # It may be refused in a sandbox: then the kernel chooses by size.
    try:
        handle = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        try:
            os.write(handle, _FIRST_TO_GO)
        finally:
            os.close(handle)
    except OSError:
        pass


def allow_handles() -> None:
    """Let this process open as many files as it may: each image that came as bytes is one.

    Many systems allow 1,024 unless a program asks for more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _HANDLES if hard == resource.RLIM_INFINITY else min(_HANDLES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # It may be refused in a sandbox.
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def silence_libraries() -> None:
    """Let only Python write to standard error of this process.

    libtiff writes a line for each row that is damaged: of a file of 1 KB that can be millions. What
    is wrong with an image is said in its result.
    """
    # It may be closed: then nobody writes anything.
    with suppress(OSError):
        own = os.dup(_STDERR)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, _STDERR)
        os.close(nowhere)
        sys.stderr = open(own, "w", buffering=1, errors="backslashreplace")  # noqa: SIM115, PTH123


def die_with_parent(parent: int) -> None:
    """Let the kernel end this process with the thread of the parent that it was forked from."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def be_called(name: str) -> None:
    """Let `ps -o comm` and `top` show this process by a name of up to 15 characters."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode("ascii"))


def data_bytes() -> int:
    """Return what RLIMIT_DATA counts of this process."""
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0
