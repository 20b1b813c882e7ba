"""What Linux counts of processes: CPU, waits for a core, page faults, context switches.

And of the machine: interrupts by which one core lets others forget pages that were unmapped.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple, Self

# Of /proc/PID/stat behind the name, which may hold blanks; see proc_pid_stat(5).
_MINOR_FAULTS, _USER_TICKS, _SYSTEM_TICKS = 7, 11, 12
_NS_PER_MS: Final = 1e6
_SWITCHES: Final = ("voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:")


class Counts(NamedTuple):
    """Totals of some processes since they began."""

    user_ms: float = 0.0
    system_ms: float = 0.0
    # For how long threads were ready to run and had no core.
    waited_ms: float = 0.0
    # Pages that were mapped when they were first touched.
    faults: float = 0.0
    # How often a thread left its core, to wait or because another got it.
    switches: float = 0.0

    @property
    def cpu_ms(self) -> float:
        """CPU in user and kernel mode."""
        return self.user_ms + self.system_ms

    def since(self, before: Self, images: int) -> Counts:
        """Return what came since then, for each of so many images."""
        return Counts(*((now - then) / images for now, then in zip(self, before, strict=True)))


def counts(pids: Iterable[int]) -> Counts:
    """Return the sum over processes; one that has ended counts as nothing."""
    totals = [_of(Path(f"/proc/{pid}")) for pid in pids]
    return Counts(*map(sum, zip(*totals, strict=True))) if totals else Counts()


def shootdowns() -> int:
    """Return how many such interrupts all cores have had; 0 if the kernel does not say.

    Each `munmap` of a process whose threads run on other cores causes one at each of them.
    """
    for line in Path("/proc/interrupts").read_text(encoding="ascii").splitlines():
        name, *numbers = line.split()
        if name == "TLB:":
            return sum(int(number) for number in numbers if number.isdecimal())
    return 0


def _of(process: Path) -> Counts:
    try:
        fields = (process / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        tasks = [*(process / "task").iterdir()]
        waited_ns = sum(int((task / "schedstat").read_text().split()[1]) for task in tasks)
        switches = sum(
            int(line.split()[1])
            for task in tasks
            for line in (task / "status").read_text(encoding="utf-8").splitlines()
            if line.startswith(_SWITCHES)
        )
    except (OSError, IndexError):
        return Counts()
    tick_ms = 1000 / os.sysconf("SC_CLK_TCK")
    return Counts(
        tick_ms * int(fields[_USER_TICKS]),
        tick_ms * int(fields[_SYSTEM_TICKS]),
        waited_ns / _NS_PER_MS,
        float(fields[_MINOR_FAULTS]),
        float(switches),
    )
