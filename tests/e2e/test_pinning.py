"""Live workers of a real TorchServe, as the kernel sees them."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from archives import build
from deploy import local, readiness
from deploy.cpus import cpu_plan
from deploy.render import Ports, ServerOptions
from model_configs.archive_files import read_golden
from model_configs.schema import AnyModelConfig
from servekit.cpu_plan import Plan, format_cpu_list
from servekit.cpus import read_machine
from servekit.settings import CompileSettings, WarmupSettings

PORT = 19180
WORKERS = 2
RESTART_TIMEOUT_S = 120


@pytest.fixture(scope="module")
def planned_server(
    minilm: AnyModelConfig, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[local.Server, Plan]]:
    """minilm with two workers; eager, since how it computes is no matter here."""
    if read_machine().available < WORKERS:
        pytest.skip("one CPU here: two workers cannot have their own")
    folder = tmp_path_factory.mktemp("pinned")
    fast = {"compile": CompileSettings(mode="eager"), "warmup": WarmupSettings(batch_sizes=(1,), lengths=(16,))}
    config = minilm.model_copy(
        update={
            "torchserve": minilm.torchserve.model_copy(update={"minWorkers": WORKERS, "maxWorkers": WORKERS}),
            "handler": minilm.handler.model_copy(update=fast),
        }
    )
    archive = build.build(config, folder / "store")
    model = local.served_model(config, archive.path.name, read_golden(archive.path))
    server = local.start(ServerOptions(folder / "store", Ports(PORT)), [model], folder / "run")
    try:
        readiness.wait_ready(server)
        yield server, cpu_plan([model])
    finally:
        local.stop(server)


def ready_pids(server: local.Server) -> set[int]:
    reply = json.loads(server.management().get("/models/minilm").body)
    return {worker["pid"] for worker in reply[0]["workers"] if worker["status"] == "READY"}


def allowed(status: Path) -> str:
    found = re.search(r"^Cpus_allowed_list:\s*(\S+)$", status.read_text(), re.MULTILINE)
    assert found
    return found.group(1)


def pinned_to(pid: int) -> str:
    """The CPUs of a process, which must be those of each of its threads."""
    process = Path(f"/proc/{pid}")
    (cpus,) = {allowed(task / "status") for task in (process, *(process / "task").iterdir())}
    return cpus


def test_live_workers_have_cpus_of_their_own(planned_server: tuple[local.Server, Plan]) -> None:
    server, planned = planned_server
    found = sorted(pinned_to(pid) for pid in ready_pids(server))
    assert found == sorted(format_cpu_list(own.cpus) for own in planned.slices)
    assert len(set(found)) == WORKERS
    log = (server.folder / local.LOG_FILE).read_text()
    assert all(f"{own}, pinned" in log for own in planned.slices)


def test_the_worker_that_replaces_a_killed_one_takes_its_cpus(planned_server: tuple[local.Server, Plan]) -> None:
    server, _ = planned_server
    before = ready_pids(server)
    killed = min(before)
    freed = pinned_to(killed)
    os.kill(killed, signal.SIGKILL)
    end = time.monotonic() + RESTART_TIMEOUT_S
    while killed in (now := ready_pids(server)) or len(now) < WORKERS:
        assert time.monotonic() < end, local.tail(server.folder)
        time.sleep(0.2)
    (new,) = now - before
    assert pinned_to(new) == freed
    assert len({pinned_to(pid) for pid in now}) == WORKERS


def test_leases_are_gone_with_the_server(planned_server: tuple[local.Server, Plan]) -> None:
    server, planned = planned_server
    names = {f"cpu{cpu}" for own in planned.slices for cpu in own.cpus}
    assert {path.name for path in (server.scratch / "leases").iterdir()} == names
    local.stop(server)
    assert not server.scratch.exists()
