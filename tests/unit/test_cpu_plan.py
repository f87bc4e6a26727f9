"""Plans for made-up machines: what holds for every one of them, and the cases that people know."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.cpu_plan import (
    Cpu,
    CpuPlanError,
    Machine,
    Plan,
    format_cpu_list,
    made_up_machine,
    options,
    plan,
)
from servekit.cpus import parse_cpu_list


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """Up to 4 nodes of up to 6 cores of up to 4 CPUs, of which some may not be used, under any quota."""
    smt = draw(st.integers(1, 4))
    per_node = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    node_of = list(chain.from_iterable([node] * cores for node, cores in enumerate(per_node)))
    every = [Cpu(id, id % len(node_of), node_of[id % len(node_of)]) for id in range(smt * len(node_of))]
    allowed = draw(st.sets(st.sampled_from(every), min_size=1)) if draw(st.booleans()) else every
    quota = draw(st.none() | st.floats(0.1, 1.5 * len(every)))
    return Machine(tuple(sorted(allowed, key=lambda cpu: cpu.id)), quota, draw(st.integers(0, 2**32)))


workers_counts = st.integers(1, 26)
threads_counts = st.none() | st.integers(1, 26)


def made(machine: Machine, workers: int, threads: int | None) -> Plan | None:
    try:
        return plan(machine, workers, threads)
    except CpuPlanError:
        return None


@given(machines(), workers_counts, threads_counts)
def test_no_plan_oversubscribes(machine: Machine, workers: int, threads: int | None) -> None:
    found = made(machine, workers, threads)
    if found is None:
        return
    allowed = {cpu.id: cpu for cpu in machine.cpus}
    taken = [cpu for own in found.slices for cpu in own.cpus]
    assert len(found.slices) == workers
    assert set(taken) <= allowed.keys()
    assert len(taken) == len(set(taken)), "a CPU twice"
    cores = [{allowed[cpu].core for cpu in own.cpus} for own in found.slices]
    assert sum(map(len, cores)) == len(set().union(*cores)), "a core in two slices"
    for own in found.slices:
        assert {allowed[cpu].node for cpu in own.cpus} == {own.node}
        assert 1 <= own.threads <= len(own.cpus)
        assert own.threads == (threads or found.threads)
    total = sum(own.threads for own in found.slices)
    assert total <= len(machine.cpus)
    assert machine.quota is None or total <= max(1, int(machine.quota))
    assert 0 < found.utilisation <= 1


@given(machines(), workers_counts, threads_counts)
def test_physical_cores_come_before_hyperthreads(machine: Machine, workers: int, threads: int | None) -> None:
    found = made(machine, workers, threads)
    if found is None:
        return
    core = {cpu.id: cpu.core for cpu in machine.cpus}
    for own in found.slices:
        cores = Counter(core[cpu] for cpu in own.cpus)
        if max(cores.values()) == 1:
            continue
        assert threads is not None, "auto never uses a sibling"
        used = {core[cpu] for other in found.slices if other.node == own.node for cpu in other.cpus}
        assert used == {cpu.core for cpu in machine.cpus if cpu.node == own.node}, "a sibling while a core is idle"


@given(machines(), workers_counts)
def test_auto_gives_all_workers_the_most_threads_that_fit(machine: Machine, workers: int) -> None:
    cores = Counter(node for node, _ in {(cpu.node, cpu.core) for cpu in machine.cpus})
    fitting = [
        threads
        for threads in range(1, len(machine.cpus) + 1)
        if workers * threads <= machine.max_threads and sum(n // threads for n in cores.values()) >= workers
    ]
    found = made(machine, workers, None)
    assert (found.threads if found else None) == max(fitting, default=None)


@given(machines(), workers_counts, threads_counts)
def test_the_same_machine_gets_the_same_plan(machine: Machine, workers: int, threads: int | None) -> None:
    assert made(machine, workers, threads) == made(machine, workers, threads)
    shuffled = Machine(tuple(reversed(machine.cpus)), machine.quota, machine.home)
    again, found = made(shuffled, workers, threads), made(machine, workers, threads)
    assert (again.slices if again else None) == (found.slices if found else None)


@given(machines(), workers_counts)
def test_cores_shared_with_other_containers_are_all_in_some_slice(machine: Machine, workers: int) -> None:
    found = made(machine, workers, None)
    if found is None or not machine.shared:
        return
    nodes = {own.node for own in found.slices}
    core = {cpu.id: cpu.core for cpu in machine.cpus}
    assert {core[cpu] for own in found.slices for cpu in own.cpus} == {c.core for c in machine.cpus if c.node in nodes}


@given(machines())
def test_options_are_plans_and_none_of_them_is_beaten(machine: Machine) -> None:
    found = options(machine)
    assert found
    for option in found:
        own = plan(machine, option.workers)
        assert (own.threads, own.used) == (option.threads, option.used)
        more = made(machine, option.workers + 1, None)
        assert more is None or more.threads < option.threads


@given(machines(), workers_counts, threads_counts)
def test_advice_is_given_when_cores_idle_and_holds(machine: Machine, workers: int, threads: int | None) -> None:
    found = made(machine, workers, threads)
    if found is None:
        return
    idle = [line for line in found.advice() if "idle" in line]
    assert bool(idle) == (found.used < machine.available)
    assert not any("  " in line or line.endswith(": ") for line in found.advice())


@given(st.sets(st.integers(0, 300), min_size=1))
def test_cpu_lists_are_the_kernels(cpus: set[int]) -> None:
    assert parse_cpu_list(format_cpu_list(cpus)) == sorted(cpus)


def cpu_lists(found: Plan) -> list[str]:
    return [format_cpu_list(own.cpus) for own in found.slices]


def test_eight_cores_and_three_workers_waste_a_quarter() -> None:
    found = plan(made_up_machine(8), 3)
    assert (found.threads, found.used, found.utilisation) == (2, 6, 0.75)
    assert found.advice() == [
        "3 workers × 2 threads leave 2 of 8 cores idle (75 % used): 2 or 4 workers use all",
    ]
    assert plan(made_up_machine(8), 4).advice() == []


def test_the_quota_counts_and_not_lscpu() -> None:
    """The article: 24 cores with 48 CPUs, a pod's limit of 8, 4 workers: 8/4, not 24/4."""
    found = plan(made_up_machine(48, smt=2, sockets=2, quota=8), 4)
    assert found.threads == 2
    assert cpu_lists(found) == ["0-5", "12-17", "6-11", "18-23"]
    assert found.utilisation == 1
    assert [(o.workers, o.threads) for o in options(found.machine)] == [(1, 8), (2, 4), (4, 2), (8, 1)]


def test_containers_that_share_cores_start_on_different_nodes() -> None:
    host = made_up_machine(48, smt=2, sockets=2, quota=8)
    homes = [plan(Machine(host.cpus, host.quota, home), 1).slices[0].node for home in range(4)]
    assert homes == [0, 1, 0, 1]
    alone = [plan(Machine(host.cpus, None, home), 1).slices[0].node for home in range(4)]
    assert alone == [0, 0, 0, 0]


def test_one_worker_on_two_sockets_leaves_one_idle() -> None:
    found = plan(made_up_machine(48, smt=2, sockets=2), 1)
    assert cpu_lists(found) == ["0-11"]
    assert found.advice() == ["1 worker × 12 threads leaves 12 of 24 cores idle (50 % used): 2 workers use all"]


def test_three_workers_on_two_nodes_of_four_cores() -> None:
    found = plan(made_up_machine(8, sockets=2), 3)
    assert found.threads == 2
    assert [own.node for own in found.slices] == [0, 1, 0]


def test_threads_beyond_the_cores_spill_to_siblings() -> None:
    found = plan(made_up_machine(16, smt=2), 2, threads=6)
    assert cpu_lists(found) == ["0-3,8-9", "4-7,12-13"]
    assert found.advice() == ["12 threads on 8 cores: sibling hyperthreads share a core's FMA units"]
    assert cpu_lists(plan(made_up_machine(16, smt=2), 2, threads=4)) == ["0-3", "4-7"]


def test_a_mask_that_leaves_some_siblings_is_used_up() -> None:
    """CPUs 0-5 of four cores with two each: cores 0 and 1 whole, 2 and 3 by half."""
    machine = Machine(tuple(cpu for cpu in made_up_machine(8, smt=2).cpus if cpu.id < 6))
    assert cpu_lists(plan(machine, 3, threads=2)) == ["0,4", "1,5", "2-3"]
    assert plan(machine, 1).threads == 4


def test_fewer_threads_than_cores_is_told() -> None:
    assert plan(made_up_machine(8), 4, threads=1).advice() == [
        "4 workers × 1 thread leave 4 of 8 cores idle (50 % used): threads: auto uses all"
    ]
    assert plan(made_up_machine(8), 3, threads=1).advice()[0].endswith("2 or 4 workers use all with threads: auto")


def test_half_a_cpu_runs_one_thread() -> None:
    assert plan(made_up_machine(8, quota=0.5), 1).threads == 1


@pytest.mark.parametrize(
    ("machine", "workers", "threads", "words"),
    [
        (made_up_machine(4), 5, None, "5 workers on 4 CPUs .4 cores, 1 NUMA node.: 4 threads may compute at once"),
        (made_up_machine(8, smt=2), 5, None, "5 workers on 8 CPUs .4 cores.*: each needs a core of its own"),
        (made_up_machine(8, quota=2.5), 3, None, "3 workers on 8 CPUs .*, a quota of 2.5: 2 threads may compute"),
        (made_up_machine(8), 3, 3, "3 workers × 3 threads on 8 CPUs .*: 8 threads may compute at once"),
        (made_up_machine(8, sockets=2), 1, 6, "1 worker × 6 threads .*: a worker stays on one NUMA node"),
        (made_up_machine(8), 0, None, "no plan"),
        (made_up_machine(8), 1, 0, "no plan"),
    ],
)
def test_what_does_not_fit_is_named(machine: Machine, workers: int, threads: int | None, words: str) -> None:
    with pytest.raises(CpuPlanError, match=words):
        plan(machine, workers, threads)


@pytest.mark.parametrize(
    ("cpus", "smt", "sockets", "quota"),
    [(7, 2, 1, None), (8, 1, 3, None), (0, 1, 1, None), (8, 1, 1, 0), (8, 0, 1, None)],
)
def test_machines_that_cannot_be(cpus: int, smt: int, sockets: int, quota: float | None) -> None:
    with pytest.raises(CpuPlanError):
        made_up_machine(cpus, smt, sockets, quota)


def test_rows_and_document_say_the_same() -> None:
    found = plan(made_up_machine(16, smt=2, sockets=2), 2, threads=5)
    assert found.rows()[1] == {"worker": 1, "cpus": "4-7,12", "threads": 5, "node": 1}
    assert found.document()["slices"][1] == {"cpus": [4, 5, 6, 7, 12], "threads": 5, "node": 1}
    assert found.summary() == "2 workers × 5 threads on 16 CPUs (8 cores, 2 NUMA nodes): 8 of 8 cores used (100 %)"
    assert options(found.machine)[0].row() == {"workers": 2, "threads": 4, "cores used": "8 of 8", "used %": 100}
