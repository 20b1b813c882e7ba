"""worker.contract.cpus"""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.contract.cpus import Cpus, fewest, quota, usable_cpus

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "33 30 0:29 {root} {place} rw - cgroup cgroup rw,cpu,cpuacct\n"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("200000 100000\n", 2.0),
        ("50000 100000\n", 0.5),
        ("150000 50000\n", 3.0),
        ("300000\n", 3.0),
        ("max 100000\n", None),
        ("max\n", None),
        ("", None),
        ("0 100000\n", None),
        ("100000 0\n", None),
        ("1 2 3\n", 0.5),
        ("nonsense\n", None),
    ],
)
def test_a_quota_of_version_2_is_read(tmp_path: Path, text: str, cpus: float | None) -> None:
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": text}
    assert quota(tree(tmp_path, files)) == cpus


@pytest.mark.parametrize(
    ("quota_us", "period_us", "cpus"),
    [("150000", "100000", 1.5), ("-1", "100000", None), ("25000", "", 0.25), ("", "", None)],
)
@pytest.mark.parametrize("place", ["cpu", "cpu,cpuacct"])
def test_a_quota_of_version_1_is_read(
    tmp_path: Path, place: str, quota_us: str, period_us: str, cpus: float | None
) -> None:
    files = {
        "proc/self/cgroup": "5:memory:/docker/a\n4:cpu,cpuacct:/docker/a\n",
        f"sys/fs/cgroup/{place}/docker/a/cpu.cfs_quota_us": f"{quota_us}\n",
        f"sys/fs/cgroup/{place}/docker/a/cpu.cfs_period_us": f"{period_us}\n",
    }
    assert quota(tree(tmp_path, files)) == cpus


def test_the_least_of_nested_groups_counts(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/kubepods/pod1/container\n",
        "proc/self/mountinfo": V2,
        "sys/fs/cgroup/kubepods/cpu.max": "800000 100000",
        "sys/fs/cgroup/kubepods/pod1/cpu.max": "150000 100000",
        "sys/fs/cgroup/kubepods/pod1/container/cpu.max": "max 100000",
    }
    assert quota(tree(tmp_path, files)) == 1.5


def test_a_container_of_version_1_sees_its_own_group_at_the_top(tmp_path: Path) -> None:
    """Docker without a namespace of control groups: the path is the host's, the mount its own."""
    files = {
        "proc/self/cgroup": "4:cpu,cpuacct:/docker/a/inner\n",
        "proc/self/mountinfo": V1.format(root="/docker/a", place="/odd\\040place"),
        "odd place/cpu.cfs_quota_us": "400000",
        "odd place/cpu.cfs_period_us": "100000",
        "odd place/inner/cpu.cfs_quota_us": "200000",
        "odd place/inner/cpu.cfs_period_us": "100000",
    }
    assert quota(tree(tmp_path, files)) == 2.0


def test_both_versions_at_once_are_looked_at(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "1:cpu:/a\n0::/a\n",
        "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "300000",
        "sys/fs/cgroup/unified/a/cpu.max": "500000",
    }
    assert quota(tree(tmp_path, files)) == 3.0


def test_a_group_outside_of_the_namespace_leads_nowhere_else(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/../../other\n",
        "sys/fs/cgroup/cpu.max": "max 100000",
        "other/cpu.max": "100000 100000",
        "sys/other/cpu.max": "100000 100000",
    }
    assert quota(tree(tmp_path, files)) is None


def test_where_nothing_can_be_read_there_is_no_quota(tmp_path: Path) -> None:
    assert quota(tmp_path) is None
    assert (
        quota(tree(tmp_path, {"proc/self/cgroup": "odd\n::\n", "proc/self/mountinfo": "x"})) is None
    )


@pytest.mark.parametrize(
    ("there", "affine", "limit", "found"),
    [
        (64, 64, None, Cpus(64, 64)),
        (64, 64, 2.0, Cpus(2, 64, "cgroup quota")),
        (64, 64, 1.5, Cpus(2, 64, "cgroup quota")),
        (64, 64, 0.1, Cpus(1, 64, "cgroup quota")),
        (64, 4, 8.0, Cpus(4, 64, "affinity")),
        (64, 4, 4.0, Cpus(4, 64, "affinity")),
        (64, 4, 3.5, Cpus(4, 64, "affinity")),
        (64, 64, 64.0, Cpus(64, 64)),
        (2, 2, 100.0, Cpus(2, 2)),
    ],
)
def test_the_smaller_of_affinity_and_quota_decides(
    there: int, affine: int, limit: float | None, found: Cpus
) -> None:
    assert fewest(there, affine, limit) == found


def test_here_there_is_at_least_one() -> None:
    assert 1 <= usable_cpus().usable <= usable_cpus().there
