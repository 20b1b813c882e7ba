"""The machine -> how many CPUs this process may keep busy: the fewer of its affinity and its quota.

A container's limit (Docker's `--cpus`, Kubernetes' `limits.cpu`) is a quota of its control group.
The scheduler's affinity does not show it: with more threads than the quota has CPUs, all of them
are stopped for a part of each tenth of a second.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Final, Literal, NamedTuple

_PERIOD_US: Final = 100_000
# Where they are mounted by convention, for version 2 and for version 1 of control groups.
_USUAL: Final = {
    2: ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"),
    1: ("/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"),
}
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


class Cpus(NamedTuple):
    """How many CPUs may be used, of how many that are there, and what makes the difference."""

    usable: int
    there: int
    limit: Literal["", "affinity", "cgroup quota"] = ""


class _Mount(NamedTuple):
    """A hierarchy of control groups: where it is mounted, and which of its groups is there."""

    place: str
    group: str


@cache
def usable_cpus() -> Cpus:
    """Return how many CPUs this process may use, as it was when it was first asked."""
    there = os.cpu_count() or 1
    has_affinity = hasattr(os, "sched_getaffinity")
    affine = len(os.sched_getaffinity(0)) if has_affinity else there
    return fewest(max(there, affine), affine, quota())


def fewest(there: int, affine: int, limit: float | None) -> Cpus:
    """Return what is left of `there` CPUs by affinity and quota; a part of a CPU counts as one."""
    allowed = affine if limit is None else max(1, math.ceil(limit))
    if allowed < affine:
        return Cpus(allowed, there, "cgroup quota")
    return Cpus(affine, there, "affinity" if affine < there else "")


def quota(root: Path = Path("/")) -> float | None:
    """Return the least quota of the control groups that this process is in, in CPUs, or None.

    A group has its own limit, and those of all groups that it is in. `root` is where /proc and /sys
    are.
    """
    limits = [
        limit
        for version, group in _groups(root)
        for mount in _mounts(root, version)
        for directory in _upwards(root, mount, group)
        if (limit := _limit(directory, version)) is not None
    ]
    return min(limits, default=None)


def _groups(root: Path) -> Iterator[tuple[int, str]]:
    """Yield the version and the path of each group of this process that may limit CPUs."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = (*line.split(":", 2), "", "")[:3]
        if not controllers and group:
            yield 2, group
        elif "cpu" in controllers.split(","):
            yield 1, group


def _mounts(root: Path, version: int) -> set[_Mount]:
    found = {_Mount(place, "/") for place in _USUAL[version]}
    for line in _text(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) < 5 or len(kinds) < 3:  # noqa: PLR2004 - see proc(5)
            continue
        is_second = kinds[0] == "cgroup2"
        is_first = kinds[0] == "cgroup" and "cpu" in kinds[2].split(",")
        if is_second if version == 2 else is_first:  # noqa: PLR2004 - version 2
            found.add(_Mount(_unescaped(fields[4]), _unescaped(fields[3])))
    return found


def _upwards(root: Path, mount: _Mount, group: str) -> Iterator[Path]:
    """Yield the directories of a group and of those that it is in, as far as they can be seen."""
    inside = PurePosixPath(group)
    if inside.is_relative_to(mount.group):
        inside = inside.relative_to(mount.group)
    parts = [part for part in inside.parts if part not in {"/", ".."}]
    top = root / mount.place.lstrip("/")
    for count in range(len(parts), -1, -1):
        yield top.joinpath(*parts[:count])


def _limit(directory: Path, version: int) -> float | None:
    """Return the quota that a directory of a control group sets, in CPUs."""
    if version == 2:  # noqa: PLR2004 - version 2
        text = _text(directory / "cpu.max")
    else:
        period = _text(directory / "cpu.cfs_period_us")
        text = f"{_text(directory / 'cpu.cfs_quota_us')} {period}"
    try:
        quota_us, period_us = (*map(int, text.split()), _PERIOD_US)[:2]
    except ValueError:
        # "max", nothing, or what no kernel writes.
        return None
    return quota_us / period_us if quota_us > 0 and period_us > 0 else None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _unescaped(text: str) -> str:
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), text)
