"""The CPUs that this process may really use, as a Machine: affinity, topology from /sys, cgroup quota.

os.cpu_count() and lscpu count the host's CPUs; in a container with a quota of 2 on a 64-CPU host that makes 64 threads
fight for 2 CPUs (pytorch/serve#1138 saw 100 times the latency). Where /sys tells nothing, as in gVisor, every CPU
counts as a core of its own on node 0. Knows nothing of torch or of plans.
"""

from __future__ import annotations

import math
import os
import socket
import sys
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import TypeVar

from servekit.cpu_plan import Cpu, Machine

CGROUP_ROOT = Path("/sys/fs/cgroup")
SYS_ROOT = Path("/sys/devices/system")
OWN_CGROUPS = Path("/proc/self/cgroup")

Parsed = TypeVar("Parsed")


def read_machine(
    affinity: Iterable[int] | None = None,
    sys_root: Path = SYS_ROOT,
    cgroup_root: Path = CGROUP_ROOT,
    own_cgroups: Path = OWN_CGROUPS,
) -> Machine:
    """The CPUs in the affinity mask (a cpuset cuts it), which of them share a core or a NUMA node, and the quota."""
    node_of = {
        cpu: int(folder.name.removeprefix("node"))
        for folder in (sys_root / "node").glob("node[0-9]*")
        for cpu in _cpu_list(folder / "cpulist")
    }
    allowed = sorted(allowed_cpus() if affinity is None else affinity)
    cpus = tuple(Cpu(cpu, _core(sys_root, cpu), node_of.get(cpu, 0)) for cpu in allowed)
    # A container's hostname is its own; so containers that share cores do not all start on node 0.
    return Machine(cpus, cpu_quota(cgroup_root, own_cgroups), home=zlib.crc32(socket.gethostname().encode()))


def allowed_cpus() -> set[int]:
    """The affinity mask; all CPUs where the system has none."""
    return os.sched_getaffinity(0) if sys.platform == "linux" else set(range(os.cpu_count() or 1))


def usable_cpus(cgroup_root: Path = CGROUP_ROOT, affinity: int | None = None) -> int:
    """CPUs in the affinity mask, or the cgroup's CPU quota rounded up if that is fewer; at least 1."""
    count = affinity if affinity is not None else len(allowed_cpus())
    quota = cpu_quota(cgroup_root)
    return max(1, min(count, math.ceil(quota)) if quota else count)


def cpu_quota(cgroup_root: Path = CGROUP_ROOT, own_cgroups: Path = OWN_CGROUPS) -> float | None:
    """CPUs' worth of time that the process's cgroup and those above it allow: the smallest; None without a limit.

    In a container the own cgroup is the root of what is mounted. Where the cgroup namespace is the host's, or under
    systemd, it lies below, and a limit may stand on any level.
    """
    unified, cpu_v1 = _own_paths(own_cgroups)
    v2 = [_quota_v2(folder) for folder in _levels(cgroup_root, unified)]
    v1 = [_quota_v1(folder) for name in ("cpu", "cpu,cpuacct") for folder in _levels(cgroup_root / name, cpu_v1)]
    return min((quota for quota in (*v2, *v1) if quota), default=None)


def parse_cpu_list(text: str) -> list[int]:
    """[0, 1, 2, 8] from 0-2,8. Raises ValueError."""
    ranges = [part.split("-") for part in text.strip().split(",") if part]
    return [cpu for ends in ranges for cpu in range(int(ends[0]), int(ends[-1]) + 1)]


def _own_paths(own_cgroups: Path) -> tuple[str, str]:
    """The process's paths in the unified (v2) hierarchy and in that of v1's cpu controller."""
    unified = cpu_v1 = "/"
    for line in _read(own_cgroups, str.splitlines) or []:
        hierarchy, controllers, path = line.split(":", 2)
        if hierarchy == "0":
            unified = path
        elif "cpu" in controllers.split(","):
            cpu_v1 = path
    return unified, cpu_v1


def _levels(root: Path, path: str) -> list[Path]:
    """root, and the folder of each level of a cgroup's path below it."""
    relative = PurePosixPath(path.lstrip("/"))
    return [root / level for level in (relative, *relative.parents)]


def _quota_v2(folder: Path) -> float | None:
    return _read(folder / "cpu.max", _parse_cpu_max)


def _quota_v1(folder: Path) -> float | None:
    quota, period = _read(folder / "cpu.cfs_quota_us", int), _read(folder / "cpu.cfs_period_us", int)
    return quota / period if quota and period and quota > 0 else None


def _core(sys_root: Path, cpu: int) -> int:
    """The lowest of a core's CPUs: unlike core_id, different on every core of a machine."""
    topology = sys_root / "cpu" / f"cpu{cpu}" / "topology"
    siblings = _cpu_list(topology / "core_cpus_list") or _cpu_list(topology / "thread_siblings_list")
    return min(siblings) if cpu in siblings else cpu


def _cpu_list(path: Path) -> list[int]:
    return _read(path, parse_cpu_list) or []


def _parse_cpu_max(text: str) -> float | None:
    quota, period = text.split()
    return None if quota == "max" else int(quota) / int(period)


def _read(path: Path, parse: Callable[[str], Parsed]) -> Parsed | None:
    """A file, parsed; None when it is not there, not ours to read, or not of that form."""
    try:
        return parse(path.read_text())
    except (OSError, ValueError):
        return None
