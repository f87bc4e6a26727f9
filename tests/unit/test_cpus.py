from __future__ import annotations

from pathlib import Path

import pytest

from servekit.cpus import usable_cpus


@pytest.mark.parametrize(
    ("cpu_max", "affinity", "expected"),
    [
        ("max 100000", 8, 8),
        ("200000 100000", 8, 2),
        ("150000 100000", 8, 2),
        ("50000 100000", 8, 1),
        ("900000 100000", 4, 4),
    ],
)
def test_cgroup_v2_quota_cuts_affinity(tmp_path: Path, cpu_max: str, affinity: int, expected: int) -> None:
    (tmp_path / "cpu.max").write_text(cpu_max + "\n")
    assert usable_cpus(tmp_path, affinity) == expected


@pytest.mark.parametrize(("quota", "expected"), [(-1, 6), (300000, 3)])
def test_cgroup_v1_quota_cuts_affinity(tmp_path: Path, quota: int, expected: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(str(quota))
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert usable_cpus(tmp_path, 6) == expected


def test_no_cgroup_means_affinity(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path, 3) == 3
    assert usable_cpus(tmp_path) >= 1
