"""Which CPUs and how many threads each worker gets: pure, from a machine's description.

One thread a physical core, since the GEMM threads of sibling hyperthreads share one core's FMA units. A worker stays on
one NUMA node and shares no core with another worker. All threads together stay within the CPUs that may be used and
within the cgroup's quota. Knows nothing of torch, of /sys or of processes: cpus.py reads a machine, pinning.py obeys.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import floor
from typing import Any

Core = tuple[int, ...]
"""Ids of one physical core's CPUs (its hyperthreads) that may be used, ascending."""


class CpuPlanError(ValueError):
    """These workers and threads do not fit on this machine; the message names the numbers."""


@dataclass(frozen=True)
class Cpu:
    """A logical CPU. core: the same for sibling hyperthreads and for no others; node: its NUMA node."""

    id: int
    core: int
    node: int


@dataclass(frozen=True)
class Machine:
    """The CPUs that a process may use. quota: CPUs' worth of time its cgroup may use, None without a limit.

    home: where the first worker goes, modulo the number of nodes, when others compute on the same cores.
    """

    cpus: tuple[Cpu, ...]
    quota: float | None = None
    home: int = 0

    @property
    def shared(self) -> bool:
        """Whether a quota leaves these CPUs to other containers too."""
        return self.quota is not None and self.quota < len(self.cpus)

    @property
    def max_threads(self) -> int:
        """Threads that may compute at once. A quota of 0.5 still runs one, half of the time."""
        return len(self.cpus) if self.quota is None else min(len(self.cpus), max(1, floor(self.quota)))

    @property
    def available(self) -> int:
        """Threads that can compute at once, each on a physical core of its own."""
        return min(self.max_threads, len({cpu.core for cpu in self.cpus}))

    def nodes(self) -> dict[int, list[Core]]:
        """Cores of each NUMA node, those with most CPUs first; nodes ascending, or from `home` on when shared."""
        cores: dict[int, dict[int, list[int]]] = {}
        for cpu in sorted(self.cpus, key=lambda cpu: (cpu.node, cpu.id)):
            cores.setdefault(cpu.node, {}).setdefault(cpu.core, []).append(cpu.id)
        by_node = {
            node: sorted(map(tuple, found.values()), key=lambda core: -len(core)) for node, found in cores.items()
        }
        first = self.home % len(by_node) if self.shared else 0
        return {node: by_node[node] for node in [*list(by_node)[first:], *list(by_node)[:first]]}

    def __str__(self) -> str:
        cores, nodes = len({cpu.core for cpu in self.cpus}), len({cpu.node for cpu in self.cpus})
        quota = "" if self.quota is None else f", a quota of {self.quota:g}"
        return f"{_count(len(self.cpus), 'CPU')} ({_count(cores, 'core')}, {_count(nodes, 'NUMA node')}){quota}"


@dataclass(frozen=True)
class Slice:
    """One worker's CPUs, and its threads: never more than those, fewer where a quota shares the cores."""

    cpus: tuple[int, ...]
    threads: int
    node: int

    def __str__(self) -> str:
        where = "CPU" if len(self.cpus) == 1 else "CPUs"
        return f"{_count(self.threads, 'thread')} on {where} {format_cpu_list(self.cpus)}, node {self.node}"


@dataclass(frozen=True)
class Option:
    """A number of workers that uses a machine well. used: threads on physical cores of their own."""

    workers: int
    threads: int
    used: int
    available: int

    @property
    def utilisation(self) -> float:
        """Share of the cores that may compute at once, 0 to 1."""
        return self.used / self.available

    def row(self) -> dict[str, Any]:
        """For a table of options."""
        return {
            "workers": self.workers,
            "threads": self.threads,
            "cores used": f"{self.used} of {self.available}",
            "used %": round(100 * self.utilisation),
        }


@dataclass(frozen=True)
class Plan:
    """A slice for each worker."""

    machine: Machine
    slices: tuple[Slice, ...]

    @property
    def workers(self) -> int:
        return len(self.slices)

    @property
    def threads(self) -> int:
        """Of each worker."""
        return self.slices[0].threads

    @property
    def used(self) -> int:
        """Threads on physical cores of their own."""
        return min(self.workers * self.threads, self.machine.available)

    @property
    def utilisation(self) -> float:
        """Share of the cores that may compute at once, 0 to 1."""
        return self.used / self.machine.available

    def summary(self) -> str:
        """One line."""
        return (
            f"{_count(self.workers, 'worker')} × {_count(self.threads, 'thread')} on {self.machine}: "
            f"{self.used} of {_count(self.machine.available, 'core')} used ({100 * self.utilisation:.0f} %)"
        )

    def rows(self) -> list[dict[str, Any]]:
        """For a table: worker, cpus as in 0-5,24, threads, node."""
        return [
            {"worker": place, "cpus": format_cpu_list(s.cpus), "threads": s.threads, "node": s.node}
            for place, s in enumerate(self.slices)
        ]

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "workers": self.workers,
            "threads": self.threads,
            "cores_used": self.used,
            "cores_available": self.machine.available,
            "utilisation": round(self.utilisation, 4),
            "slices": [{"cpus": list(s.cpus), "threads": s.threads, "node": s.node} for s in self.slices],
            "advice": self.advice(),
        }

    def advice(self) -> list[str]:
        """What the plan wastes, and what would not: one line for each."""
        machine, lines = self.machine, []
        if self.used < machine.available:
            auto = "" if self.threads == _most_threads(machine, self.workers) else "threads: auto"
            counts = [option.workers for option in options(machine) if option.used == machine.available]
            if self.workers in counts:
                better = f"{auto} uses all"
            else:
                near = [*[n for n in counts if n < self.workers][-1:], *[n for n in counts if n > self.workers][:1]]
                noun = "worker uses" if near == [1] else "workers use"
                better = f"{' or '.join(map(str, near))} {noun} all{auto and f' with {auto}'}"
            lines.append(
                f"{_count(self.workers, 'worker')} × {_count(self.threads, 'thread')} "
                f"{'leave' if self.workers > 1 else 'leaves'} {machine.available - self.used} of "
                f"{_count(machine.available, 'core')} idle ({100 * self.utilisation:.0f} % used): {better}"
            )
        if self.workers * self.threads > machine.available:
            lines.append(
                f"{self.workers * self.threads} threads on {_count(machine.available, 'core')}: "
                "sibling hyperthreads share a core's FMA units"
            )
        return lines


def plan(machine: Machine, workers: int, threads: int | None = None) -> Plan:
    """A slice for each of `workers`, in the order in which they should be taken, which alternates between nodes.

    threads: of each worker; None for the most that all workers can have on physical cores. Raises CpuPlanError.
    """
    if workers < 1 or (threads is not None and threads < 1):
        raise CpuPlanError(f"{workers} workers with {threads} threads is no plan")
    if workers * (threads or 1) > machine.max_threads:
        limit = _count(machine.max_threads, "thread")
        raise CpuPlanError(f"{_demand(workers, threads)} on {machine}: {limit} may compute at once")
    chosen = threads or _most_threads(machine, workers)
    nodes = machine.nodes()
    seats = _seats(nodes, workers, chosen)
    if not seats:
        raise CpuPlanError(
            f"{_demand(workers, threads)} on {machine}: a worker stays on one NUMA node and shares no core with another"
        )
    return Plan(machine, tuple(_slices(nodes, seats, chosen, machine.shared)))


def options(machine: Machine) -> list[Option]:
    """Numbers of workers that make sense: those for which no larger number has as many threads a worker."""
    found: dict[int, Option] = {}
    for threads in range(1, machine.available + 1):
        workers = _most_workers(machine, threads)
        if workers:
            found[workers] = Option(workers, threads, workers * threads, machine.available)
    return sorted(found.values(), key=lambda option: option.workers)


def made_up_machine(cpus: int, smt: int = 1, sockets: int = 1, quota: float | None = None) -> Machine:
    """A machine numbered as Linux does: first all cores, socket by socket, then their siblings. Raises CpuPlanError."""
    if min(cpus, smt, sockets) < 1 or cpus % (smt * sockets):
        raise CpuPlanError(f"{cpus} CPUs are no {sockets} sockets of equal cores with {smt} CPUs each")
    if quota is not None and quota <= 0:
        raise CpuPlanError(f"a quota of {quota:g} CPUs runs nothing")
    cores = cpus // smt
    return Machine(tuple(Cpu(id, id % cores, id % cores * sockets // cores) for id in range(cpus)), quota)


def format_cpu_list(cpus: Iterable[int]) -> str:
    """As the kernel writes it: 0-5,24."""
    ordered = sorted(cpus)
    starts = [b for a, b in pairwise([ordered[0] - 2, *ordered]) if b - a > 1]
    ends = [a for a, b in pairwise([*ordered, ordered[-1] + 2]) if b - a > 1]
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def _most_workers(machine: Machine, threads: int) -> int:
    """Workers with this many threads that fit, one thread a physical core."""
    return min(machine.max_threads // threads, sum(len(cores) // threads for cores in machine.nodes().values()))


def _most_threads(machine: Machine, workers: int) -> int:
    for threads in range(machine.max_threads // workers, 0, -1):
        if _most_workers(machine, threads) >= workers:
            return threads
    raise CpuPlanError(f"{_count(workers, 'worker')} on {machine}: each needs a core of its own")


def _seats(nodes: dict[int, list[Core]], workers: int, threads: int) -> list[int]:
    """The node of each worker; empty when they do not all fit.

    Always the node with the most cores for one more: it has one for each thread whenever any node has, so siblings come
    last.
    """
    seats: list[int] = []
    for _ in range(workers):
        room = {n: len(cores) / (seats.count(n) + 1) for n, cores in nodes.items()}
        fitting = [n for n, cores in nodes.items() if _fits(cores, seats.count(n) + 1, threads)]
        if not fitting:
            return []
        seats.append(max(fitting, key=room.__getitem__))  # the first of equals
    return seats


def _fits(cores: list[Core], workers: int, threads: int) -> bool:
    return all(sum(map(len, share)) >= threads for share in _shares(cores, workers))


def _shares(cores: list[Core], workers: int) -> list[list[Core]]:
    """Neighbouring cores for each worker, as even as it goes; the last get one more."""
    ends = [len(cores) * (place + 1) // workers for place in range(workers)]
    return [cores[start:end] for start, end in pairwise([0, *ends])]


def _slices(nodes: dict[int, list[Core]], seats: Sequence[int], threads: int, shared: bool) -> Iterable[Slice]:
    shares = {node: iter(_shares(cores, seats.count(node))) for node, cores in nodes.items() if node in seats}
    for node in seats:
        yield Slice(_choose(next(shares[node]), threads, shared), threads, node)


def _choose(cores: list[Core], threads: int, shared: bool) -> tuple[int, ...]:
    """A CPU for each thread, one of each core before any sibling.

    Where a quota shares the cores with other containers, one of every core: the kernel finds the idle ones. Only as
    many CPUs as threads would pile the workers of all containers up on the same first cores.
    """
    by_rank = [core[rank] for rank in range(max(map(len, cores))) for core in cores if rank < len(core)]
    return tuple(sorted(by_rank[: max(threads, len(cores) if shared else 0)]))


def _demand(workers: int, threads: int | None) -> str:
    return f"{_count(workers, 'worker')} × {_count(threads, 'thread')}" if threads else _count(workers, "worker")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
