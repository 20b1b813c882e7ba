"""How long a process was ready to run and had no core: a busy machine is not an image's fault."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_NS: Final = 1e9


def waited_s(pid: int) -> float:
    """Return for how long a process has waited for a core so far; 0 if the kernel does not say.

    See "schedstat" in the kernel's Documentation/scheduler/sched-stats.rst; of a process with
    several threads it is the first one's.
    """
    try:
        _, waited_ns, _ = Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return 0.0
    return int(waited_ns) / _NS
