"""Leases and pinning, with real processes: what a worker does on this machine, whatever its CPUs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from model_configs import HANDLERS_DIR
from servekit import pinning
from servekit.cpu_plan import Slice, format_cpu_list, made_up_machine, plan
from servekit.cpus import allowed_cpus, parse_cpu_list, read_machine
from servekit.settings import CpuSettings

WORKER = """
import json, logging, os, sys, threading
if "CPUSET" in os.environ:
    os.sched_setaffinity(0, {int(os.environ["CPUSET"])})
threading.Thread(target=threading.Event().wait, daemon=True).start()
logging.basicConfig(stream=sys.stdout, format="log: %(message)s")
from servekit import pinning
from servekit.settings import CpuSettings
claim = pinning.claim(CpuSettings(**json.loads(sys.argv[1])), {})
threading.Thread(target=threading.Event().wait, daemon=True).start()
print(json.dumps({"threads": claim.threads, "text": claim.text}), flush=True)
sys.stdin.read()
"""


class FakeWorker:
    """A process that claims CPUs as a handler does, and lives until it is closed. log: lines before the claim."""

    def __init__(self, environment: dict[str, str], settings: dict[str, Any]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, json.dumps(settings)],
            env={**os.environ, "PYTHONPATH": str(HANDLERS_DIR), **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def claimed(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        self.log = []
        for line in self.process.stdout:
            if not line.startswith("log: "):
                return json.loads(line)
            self.log.append(line.removeprefix("log: "))
        raise AssertionError("the worker died")

    def cpus(self) -> list[set[int]]:
        """Of every thread, as the kernel says."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        found = [re.search(r"^Cpus_allowed_list:\s*(\S+)", (t / "status").read_text(), re.MULTILINE) for t in tasks]
        return [set(parse_cpu_list(match.group(1))) for match in found if match]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


Start = Callable[..., FakeWorker]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[FakeWorker] = []

    def run(workers: int, settings: dict[str, Any] | None = None, **environment: str) -> FakeWorker:
        own = {pinning.LEASES: str(tmp_path / "leases"), pinning.WORKERS: str(workers), **environment}
        started.append(FakeWorker(own, settings or {}))
        return started[-1]

    yield run
    for worker in started:
        worker.kill()


@pytest.fixture
def most() -> int:
    """As many workers as there are cores to compute on."""
    count = read_machine().available
    if count < 2:
        pytest.skip("one CPU here: two workers cannot have their own")
    return count


def test_workers_that_start_at_once_share_the_machine(start: Start, most: int) -> None:
    workers = [start(most) for _ in range(most)]
    claims = [worker.claimed() for worker in workers]
    planned = plan(read_machine(), most)
    assert [claim["threads"] for claim in claims] == [planned.threads] * most
    found = []
    for worker in workers:
        threads = worker.cpus()
        assert len(threads) >= 3, "one thread from before the claim, one from after, and the first"
        assert all(cpus == threads[0] for cpus in threads)
        found.append(format_cpu_list(threads[0]))
    assert sorted(found) == sorted(format_cpu_list(own.cpus) for own in planned.slices)


def test_a_killed_workers_slice_goes_to_the_next(start: Start, most: int) -> None:
    workers = [start(most) for _ in range(most)]
    for worker in workers:
        worker.claimed()
    freed = workers[0].cpus()[0]
    workers[0].kill()
    again = start(most)
    again.claimed()
    assert again.cpus()[0] == freed


def test_a_worker_stays_within_the_cpus_it_was_given(start: Start) -> None:
    """The host's core 0 is not ours under a cpuset; TorchServe's launcher takes it all the same."""
    given = max(allowed_cpus())
    worker = start(1, CPUSET=str(given))
    assert worker.claimed()["text"].startswith(f"1 thread on CPU {given}, node ")
    assert set(map(frozenset, worker.cpus())) == {frozenset({given})}


def test_one_worker_too_many_lives_unpinned(start: Start, most: int) -> None:
    for worker in [start(most) for _ in range(most)]:
        worker.claimed()
    extra = start(most)
    assert extra.claimed() == {"threads": 1, "text": "1 thread, not pinned"}
    assert f"more than the {most} workers that it was planned for" in extra.log[0]
    assert extra.cpus()[0] == allowed_cpus()


def test_more_workers_than_cpus_live_unpinned(start: Start) -> None:
    count = len(allowed_cpus()) + 1
    worker = start(count)
    assert worker.claimed()["text"] == "1 thread, not pinned"
    assert re.match(rf"this worker is not pinned: {count} workers on .*; serve fewer workers", worker.log[0])
    assert worker.cpus()[0] == allowed_cpus()


def test_off_and_launcher_leave_the_affinity_alone(start: Start) -> None:
    planned = plan(read_machine(), 1)
    off = start(1, {"pinning": "off"})
    assert off.claimed()["threads"] == planned.threads
    launched = start(1, {"pinning": "launcher"}, OMP_NUM_THREADS="3")
    assert launched.claimed()["threads"] == 3
    unlaunched = start(1, {"pinning": "launcher"}, OMP_NUM_THREADS="")
    assert unlaunched.claimed()["threads"] == planned.threads
    assert "TorchServe could not run its launcher" in unlaunched.log[0]
    for worker in (off, launched, unlaunched):
        assert worker.cpus()[0] == allowed_cpus()


@pytest.mark.parametrize("kind", ["symlink", "open to others", "a file", "nowhere"])
def test_a_lease_folder_that_is_not_ours_alone_is_refused(start: Start, tmp_path: Path, kind: str) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    leases = tmp_path / "leases"
    if kind == "symlink":
        leases.symlink_to(tmp_path / "elsewhere")
    elif kind == "open to others":
        leases.mkdir()
        leases.chmod(0o755)
    elif kind == "a file":
        leases.touch()
    else:
        leases = tmp_path / "not" / "there"
    worker = start(1, **{pinning.LEASES: str(leases)})
    assert "not pinned" in worker.claimed()["text"]
    assert str(leases) in worker.log[0]
    assert worker.cpus()[0] == allowed_cpus()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_slices_of_different_plans_never_overlap(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    fours = plan(made_up_machine(8), 2).slices
    ones = plan(made_up_machine(8), 8).slices
    assert pinning.lease(ones, tmp_path) == Slice((0,), 1, 0)
    assert pinning.lease(fours, tmp_path) == Slice((4, 5, 6, 7), 4, 0)
    assert pinning.lease(fours, tmp_path) is None
    assert [pinning.lease(ones, tmp_path) for _ in range(4)] == [*ones[1:4], None]


def test_a_link_in_place_of_a_lock_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "cpu0").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="cpu0"):
        pinning.lease([Slice((0,), 1, 0)], tmp_path)


def test_a_server_has_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(pinning.LEASES, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = pinning.lease_folder()
    assert folder.parent == tmp_path
    assert re.fullmatch(rf"servekit-{os.getuid()}-{os.getppid()}-\d+", folder.name)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert pinning.lease_folder() == folder
    monkeypatch.setattr(os, "getppid", os.getpid)
    assert pinning.lease_folder() != folder


@pytest.mark.parametrize(
    ("config", "workers"), [({}, 1), ({"minWorkers": 2}, 2), ({"minWorkers": 1, "maxWorkers": 4}, 4)]
)
def test_without_a_server_plan_the_models_own_workers_count(
    monkeypatch: pytest.MonkeyPatch, config: dict[str, int], workers: int
) -> None:
    monkeypatch.delenv(pinning.WORKERS, raising=False)
    monkeypatch.setattr(pinning, "read_machine", lambda: made_up_machine(8))
    assert pinning.claim(CpuSettings(), config).threads == 8 // workers
    assert pinning.claim(CpuSettings(threads=2), config).text == "2 threads on CPUs 0-1, node 0, pinned"


def test_memory_comes_from_the_workers_node(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Of several nodes only; node 0 is there everywhere. Where libnuma is not, or the kernel refuses, one line says so."""
    asked: list[int] = []
    monkeypatch.setattr(pinning, "prefer_memory_of", asked.append)
    for sockets in (1, 2):
        monkeypatch.setattr(pinning, "read_machine", lambda sockets=sockets: made_up_machine(8, sockets=sockets))
        pinning.claim(CpuSettings(), {})
    assert asked == [0]


def test_this_kernel_takes_or_refuses_a_memory_node() -> None:
    script = (
        "import logging; logging.basicConfig(level='INFO')\n"
        "from servekit import pinning; pinning.prefer_memory_of(0); print(open('/proc/self/numa_maps').readline())"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(HANDLERS_DIR)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "no libnuma" in result.stderr or "not bound" in result.stderr or not Path("/proc/self/numa_maps").exists():
        pytest.skip(f"memory nodes cannot be chosen here: {result.stderr or 'no numa_maps'}")
    assert result.returncode == 0, result.stderr
    assert "prefer:0" in result.stdout or "prefer=relative:0" in result.stdout, result.stdout
