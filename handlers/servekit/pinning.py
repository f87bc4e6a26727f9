"""A worker's own CPUs: it leases a slice of the plan and pins itself, before torch starts its pool of threads.

TorchServe tells a worker neither its rank nor how many others there are, and a worker that dies is replaced by another
process. So all workers of a server make the same plan, and each takes the first slice whose CPUs nobody holds: one file
lock a CPU, which the kernel frees when the worker ends, however it ends. That needs no privileges and no lscpu.

Knows nothing of torch, whose thread count the caller sets, and nothing of other servers on the same machine.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
import tempfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servekit.cpu_plan import CpuPlanError, Slice, format_cpu_list, plan
from servekit.cpus import allowed_cpus, read_machine
from servekit.log import log
from servekit.settings import CpuSettings

LEASES = "SERVEKIT_LEASES"
"""Environment: the folder of a server's leases; one in the temporary folder, named after the server, if not set."""
WORKERS = "SERVEKIT_WORKERS"
"""Environment: workers of all models of the server; the model's own maxWorkers if not set."""
MPOL_PREFERRED = 1


@dataclass(frozen=True)
class Claim:
    """What a worker got. threads: for torch.set_num_threads; text: one line for its log; place: among the workers."""

    threads: int
    text: str
    place: int = 0


def claim(settings: CpuSettings, config: Mapping[str, Any]) -> Claim:
    """Lease a slice and pin this process to it. config: the model's TorchServe keys.

    Never raises for a machine that is too small or refuses: the worker then runs unpinned, and its log says why.
    """
    own_threads = None if settings.threads == "auto" else settings.threads
    if settings.pinning == "launcher" and (launched := os.environ.get("OMP_NUM_THREADS")):
        where = format_cpu_list(allowed_cpus())
        return Claim(int(launched), f"{_threads(int(launched))} on CPUs {where}, by TorchServe's launcher")
    workers = int(os.environ.get(WORKERS) or config.get("maxWorkers") or config.get("minWorkers") or 1)
    workers *= int(os.environ.get("WORLD_SIZE", "1"))  # torchrun's, where a worker is several processes
    machine = read_machine()
    try:
        planned = plan(machine, workers, own_threads)
    except CpuPlanError as error:
        return _unpinned(own_threads or 1, f"{error}; serve fewer workers, or give them more CPUs")
    if settings.pinning == "off":
        return Claim(planned.threads, f"{_threads(planned.threads)}, pinning: off")
    if settings.pinning == "launcher":
        return _unpinned(planned.threads, "TorchServe could not run its launcher, torch.backends.xeon.run_cpu")
    try:
        own = take(planned.slices)
    except OSError as error:
        return _unpinned(planned.threads, str(error))
    if own is None:
        reason = f"the server has more than the {workers} workers that it was planned for ({WORKERS}, maxWorkers)"
        return _unpinned(planned.threads, reason)
    if len({cpu.node for cpu in machine.cpus}) > 1:
        prefer_memory_of(own.node)
    return Claim(own.threads, f"{own}, pinned", planned.slices.index(own))


def take(slices: Sequence[Slice]) -> Slice | None:
    """Lease the first slice that is free and pin this process to it; None when there is none. Raises OSError."""
    own = lease(slices, lease_folder())
    if own:
        pin(own.cpus)
    return own


def lease_folder() -> Path:
    """Where the workers of this server meet; made when it is not there. Raises OSError."""
    given = os.environ.get(LEASES)
    server = os.getppid()
    folder = Path(given or f"{tempfile.gettempdir()}/servekit-{os.getuid()}-{server}-{_start_time(server)}")
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    return folder


def lease(slices: Sequence[Slice], folder: Path) -> Slice | None:
    """The first slice whose CPUs are free, held until this process ends; None when there is none. Raises OSError."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        found = os.fstat(opened)
        if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise PermissionError(f"{folder} is not this user's alone")
        return next((s for s in slices if _lock_all([f"cpu{cpu}" for cpu in s.cpus], opened)), None)
    finally:
        os.close(opened)


def pin(cpus: Collection[int]) -> None:
    """Pin every thread of this process, not only this one: numpy's BLAS started its own at import. Raises OSError."""
    pinned: set[int] = set()
    while threads := {int(task.name) for task in Path("/proc/self/task").iterdir()} - pinned:
        for thread in threads:
            with suppress(ProcessLookupError):  # it ended
                os.sched_setaffinity(thread, cpus)
        pinned |= threads


def prefer_memory_of(node: int) -> None:
    """Take memory from this NUMA node while it has some, from here on and in threads started from here on.

    Preferred and not bound: a worker that is bound to a full node is killed, with memory free on the others.
    """
    try:
        libnuma = ctypes.CDLL("libnuma.so.1", use_errno=True)
    except OSError:
        log.info("no libnuma: memory comes from the node where the kernel finds some")
        return
    bits = 8 * ctypes.sizeof(ctypes.c_ulong)
    mask = (ctypes.c_ulong * (node // bits + 1))()
    mask[node // bits] = 1 << node % bits
    if libnuma.set_mempolicy(MPOL_PREFERRED, mask, ctypes.c_ulong(len(mask) * bits + 1)) != 0:
        # Docker's seccomp profile refuses it without CAP_SYS_NICE.
        log.warning("memory is not bound to node %d: %s", node, os.strerror(ctypes.get_errno()))


def _unpinned(threads: int, reason: str) -> Claim:
    log.warning("this worker is not pinned: %s", reason)
    return Claim(threads, f"{_threads(threads)}, not pinned")


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _lock_all(names: Sequence[str], folder: int) -> bool:
    """Lock these files or none. Their descriptors stay open, and no child inherits them over an exec."""
    with ExitStack() as opened:
        for name in names:
            file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=folder)
            opened.callback(os.close, file)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        opened.pop_all()
    return True


def _start_time(pid: int) -> str:
    """In clock ticks since boot; a pid may be given to another process, a pid with its start time not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        return "0"
