"""How the workers of one server share its CPUs, told before it starts: the plan, or TorchServe's own launcher.

Own pinning happens in the workers (servekit/pinning.py), which make this same plan. The launcher,
torch.backends.xeon.run_cpu, is the server's: it wraps every worker, and numbers the cores of the host's lscpu.
Knows nothing of processes that run already.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol

from model_configs.errors import KitError
from servekit.cpu_plan import CpuPlanError, Machine, Plan, format_cpu_list, plan
from servekit.cpus import allowed_cpus, parse_cpu_list, read_machine
from servekit.pinning import LEASES, WORKERS

Pinning = Literal["own", "launcher", "off"]
LAUNCHER = "torch.backends.xeon.run_cpu"
LAUNCHER_TIMEOUT_S = 60


class UsesCpus(Protocol):
    """What counts here of a model that a server has; threads: None for auto."""

    @property
    def name(self) -> str: ...
    @property
    def workers(self) -> int: ...
    @property
    def max_workers(self) -> int: ...
    @property
    def threads(self) -> int | None: ...
    @property
    def pinning(self) -> Pinning: ...


@dataclass(frozen=True)
class Launcher:
    """What config.properties says of the launcher. ipex: Intel's extension is installed."""

    args: str
    ipex: bool


def cpu_plan(models: Sequence[UsesCpus], machine: Machine | None = None) -> Plan:
    """The plan that the workers of these models will make. Raises KitError for models that cannot share a server.

    Raises CpuPlanError when they do not fit: the workers run all the same, with one thread each, unpinned.
    """
    _require_agreement(models)
    threads = next((model.threads for model in models if model.pinning != "off"), models[0].threads)
    return plan(machine or read_machine(), sum(model.max_workers for model in models), threads)


def start_lines(models: Sequence[UsesCpus], machine: Machine | None = None) -> list[str]:
    """What to print before a server of these models starts. Raises KitError."""
    planned: Plan | None = None
    try:
        planned = cpu_plan(models, machine)
        lines = [planned.summary(), *planned.advice()]
    except CpuPlanError as error:
        lines = [str(error)]
    if found := launcher(models, machine):
        lines.append(f"pinned by TorchServe's launcher: {LAUNCHER} {found.args}")
        lines += launcher_warnings(models, found)
    elif all(model.pinning == "off" for model in models):
        lines.append("no worker is pinned (pinning: off)")
    elif planned:
        lines += [f"worker {place}: {own}" for place, own in enumerate(planned.slices)]
    else:
        lines.append("no worker is pinned; serve fewer workers, or give them more CPUs")
    return [f"cpus: {line}" for line in lines]


def environment(models: Sequence[UsesCpus], scratch: Path, servers: int = 1) -> dict[str, str]:
    """What the workers need to share the CPUs of their server, or of as many servers with the same scratch folder."""
    return {WORKERS: str(servers * sum(model.max_workers for model in models)), LEASES: str(scratch / "leases")}


def launcher(models: Sequence[UsesCpus], machine: Machine | None = None) -> Launcher | None:
    """The launcher's settings if these models want it. Raises KitError for models that cannot share a server."""
    _require_agreement(models)
    if all(model.pinning != "launcher" for model in models):
        return None
    try:
        threads = cpu_plan(models, machine).threads
    except CpuPlanError:
        threads = 1
    # Without --ninstances it would start a worker for every group of cores; TorchServe adds its own
    # `--ninstances N --rank R`, which win, only for a model with more than one worker (WorkerLifeCycle.java).
    # Cores per worker come from the plan: its own default divides the host's cores, whatever the quota.
    ipex = find_spec("intel_extension_for_pytorch") is not None
    return Launcher(f"--ninstances 1 --ncores_per_instance {threads}", ipex)


def launcher_warnings(models: Sequence[UsesCpus], found: Launcher) -> list[str]:
    """Try the launcher as TorchServe will, which takes some seconds. Raises KitError where no worker would start.

    TorchServe's own trial only looks at the exit code, and run_cpu ends with 0 when taskset was refused.
    """
    lines = []
    if len(models) > 1:
        lines.append("the launcher numbers workers for each model: the first workers of all models get the same cores")
    for workers in {model.workers for model in models}:
        for rank in sorted({0, workers - 1}):
            placing = ["--ninstances", str(workers), "--rank", str(rank)] if workers > 1 else []
            command = [sys.executable, "-m", LAUNCHER, *found.args.split(), *placing, "--no_python"]
            trial = subprocess.run(
                [*command, "grep", "Cpus_allowed_list", "/proc/self/status"],
                capture_output=True, text=True, timeout=LAUNCHER_TIMEOUT_S, check=False,
            )  # fmt: skip
            output = (trial.stdout + trial.stderr).strip()
            reason = (output.splitlines() or ["it says nothing"])[-1]
            pinned = re.search(r"Cpus_allowed_list:\s*(\S+)", output)
            if trial.returncode != 0:
                return [*lines, f"warning: it does not run here, so no worker will be pinned: {reason}"]
            if not pinned:
                refused = re.search(r"^(?:taskset|numactl).*$", output, re.MULTILINE)
                raise KitError(
                    f"TorchServe's launcher cannot start workers here: {refused.group() if refused else reason}",
                    "it reads the host's lscpu; handler.pinning: own stays within the CPUs of this container",
                )
            outside = set(parse_cpu_list(pinned.group(1))) - allowed_cpus()
            if outside:
                lines.append(f"warning: it pins to CPUs that this process was not given: {format_cpu_list(outside)}")
    return lines


def _require_agreement(models: Sequence[UsesCpus]) -> None:
    by_pinning = {model.pinning: model.name for model in models}
    if "launcher" in by_pinning and len(by_pinning) > 1:
        said = ", ".join(f"{name} says {pinning}" for pinning, name in by_pinning.items())
        raise KitError(
            f"handler.pinning: {said}; TorchServe's launcher pins all workers of a server or none",
            "give them the same pinning, or serve them on two ports",
        )
    by_threads = {model.threads: model.name for model in models if model.pinning != "off"}
    if len(by_threads) > 1:
        said = ", ".join(f"{name} says {threads or 'auto'}" for threads, name in by_threads.items())
        raise KitError(
            f"handler.threads: {said}; the workers of one server make one plan",
            "give them the same threads, or serve them on two ports",
        )
