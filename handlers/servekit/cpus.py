"""How many CPUs this process may really use: scheduling affinity, cut by a cgroup quota. Knows nothing of torch.

os.cpu_count() counts the host's CPUs; in a container with a quota of 2 on a 64-CPU host it makes 64 threads fight
for 2 CPUs (pytorch/serve#1138 saw 100 times the latency).
"""

from __future__ import annotations

import math
import os
from pathlib import Path


def usable_cpus(cgroup_root: Path = Path("/sys/fs/cgroup"), affinity: int | None = None) -> int:
    """CPUs in the affinity mask, or the cgroup's CPU quota rounded up if that is fewer; at least 1."""
    count = affinity if affinity is not None else len(os.sched_getaffinity(0))
    quota = _quota_v2(cgroup_root) or _quota_v1(cgroup_root)
    return max(1, min(count, math.ceil(quota)) if quota else count)


def _quota_v2(root: Path) -> float | None:
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(root: Path) -> float | None:
    try:
        quota = int((root / "cpu" / "cpu.cfs_quota_us").read_text())
        period = int((root / "cpu" / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return None if quota <= 0 else quota / period
