from __future__ import annotations

from pathlib import Path

import pytest

from servekit.cpu_plan import Cpu
from servekit.cpus import allowed_cpus, cpu_quota, parse_cpu_list, read_machine, usable_cpus

NOWHERE = Path("/nowhere")


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("cpu_max", "affinity", "expected"),
    [
        ("max 100000", 8, 8),
        ("200000 100000", 8, 2),
        ("150000 100000", 8, 2),
        ("50000 100000", 8, 1),
        ("900000 100000", 4, 4),
        ("not a quota", 4, 4),
        ("", 4, 4),
    ],
)
def test_cgroup_v2_quota_cuts_affinity(tmp_path: Path, cpu_max: str, affinity: int, expected: int) -> None:
    assert usable_cpus(write(tmp_path, {"cpu.max": cpu_max}), affinity) == expected


@pytest.mark.parametrize(("quota", "expected"), [(-1, 6), (300000, 3)])
@pytest.mark.parametrize("controller", ["cpu", "cpu,cpuacct"])
def test_cgroup_v1_quota_cuts_affinity(tmp_path: Path, controller: str, quota: int, expected: int) -> None:
    write(tmp_path, {f"{controller}/cpu.cfs_quota_us": str(quota), f"{controller}/cpu.cfs_period_us": "100000"})
    assert usable_cpus(tmp_path, 6) == expected


def test_no_cgroup_means_affinity(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path, 3) == 3
    assert usable_cpus(tmp_path) >= 1


@pytest.mark.parametrize(
    ("cgroups", "files", "expected"),
    [
        ("0::/", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/kube/pod/box", {"kube/pod/cpu.max": "400000 100000", "kube/pod/box/cpu.max": "max 100000"}, 4),
        ("0::/a/b", {"cpu.max": "800000 100000", "a/cpu.max": "200000 100000", "a/b/cpu.max": "300000 100000"}, 2),
        ("0::/a", {"b/cpu.max": "100000 100000"}, None),
        ("0::/../../outside", {"cpu.max": "250000 100000"}, 2.5),
        ("0::/docker/gone", {"cpu.max": "300000 100000"}, 3),
        ("3:cpu,cpuacct:/box\n0::/", {"cpu/box/cpu.cfs_quota_us": "50000", "cpu/box/cpu.cfs_period_us": "100000"}, 0.5),
        ("2:cpuset:/box\n1:cpu:/", {"cpu/box/cpu.cfs_quota_us": "1", "cpu/box/cpu.cfs_period_us": "100"}, None),
        ("1:name=systemd:/a:b\n0::/x", {"x/cpu.max": "100000 50000"}, 2),
        (None, {"cpu.max": "100000 50000"}, 2),
        ("0::/", {}, None),
    ],
    ids=[
        "own namespace", "pod's limit", "smallest of three", "somebody else's", "outside the namespace",
        "path of the host", "v1", "v1, another controller's path", "a colon in a path", "no /proc", "no limit",
    ],
)  # fmt: skip
def test_the_smallest_quota_on_the_way_up_counts(
    tmp_path: Path, cgroups: str | None, files: dict[str, str], expected: float | None
) -> None:
    own = tmp_path / "own"
    if cgroups is not None:
        own.write_text(cgroups + "\n")
    assert cpu_quota(write(tmp_path / "cgroup", files), own) == expected


def topology(siblings: dict[int, str], nodes: dict[int, str], name: str = "core_cpus_list") -> dict[str, str]:
    return {f"cpu/cpu{cpu}/topology/{name}": text for cpu, text in siblings.items()} | {
        f"node/node{node}/cpulist": text for node, text in nodes.items()
    }


@pytest.mark.parametrize("name", ["core_cpus_list", "thread_siblings_list"])
def test_two_sockets_with_hyperthreads_under_a_cpuset(tmp_path: Path, name: str) -> None:
    siblings = {cpu: f"{cpu % 4},{cpu % 4 + 4}" for cpu in range(8)}
    root = write(tmp_path, topology(siblings, {0: "0-1,4-5", 1: "2-3,6-7", 2: ""}, name))
    machine = read_machine({1, 3, 5, 6}, root, NOWHERE, NOWHERE)
    assert machine.cpus == (Cpu(1, 1, 0), Cpu(3, 3, 1), Cpu(5, 1, 0), Cpu(6, 2, 1))
    assert machine.quota is None


@pytest.mark.parametrize(
    "files",
    [{}, topology({0: "", 1: "x", 2: "5-6", 3: "3"}, {0: "nonsense"}), {"node/nodes/cpulist": "0-3"}],
    ids=["nothing", "nonsense", "odd names"],
)
def test_where_sys_tells_nothing_every_cpu_is_a_core(tmp_path: Path, files: dict[str, str]) -> None:
    machine = read_machine(range(4), write(tmp_path, files), NOWHERE, NOWHERE)
    assert machine.cpus == tuple(Cpu(cpu, cpu, 0) for cpu in range(4))


def test_this_machine_is_read() -> None:
    machine = read_machine()
    assert {cpu.id for cpu in machine.cpus} == allowed_cpus()
    assert machine.max_threads <= usable_cpus()


@pytest.mark.parametrize(("text", "cpus"), [("0-2,8\n", [0, 1, 2, 8]), ("", []), ("5", [5])])
def test_cpu_lists(text: str, cpus: list[int]) -> None:
    assert parse_cpu_list(text) == cpus
