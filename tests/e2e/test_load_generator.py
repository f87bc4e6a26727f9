"""The real Locust with our timetable against a server that does as it is told: what it says is what happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from loadtest import conclude, lab, records
from loadtest.plan import Plan, Target
from loadtest.records import Record
from loadtest.run import Run, read
from loadtest.serving import Served
from loadtest.stats import measured
from model_configs import ROOT
from model_configs.errors import Failed, KitError
from model_configs.loadtest import LoadTest
from model_configs.schema import load_model
from tests.e2e.conftest import kit
from tests.fakes.scripted import Scripted, scripted_server

pytestmark = pytest.mark.load
PORT = 18995
STREAM = "first=200,gap=50,tokens=10"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scripted]:
    with scripted_server(PORT, tmp_path_factory.mktemp("scripted")) as found:
        yield found


def served(server: Scripted, script: str, *, stream: bool = False) -> Served:
    kind = "openai-completions" if stream else "predictions"
    target = Target(kind=kind, url=server.url, model=script, version="1.0", stream=stream)  # type: ignore[arg-type]
    return Served(load_model("digits"), target)


def load(**keys: Any) -> LoadTest:
    given = {"payloads": "pydoc-llama", "warmup_s": 1, "timeout_s": 5, "users": 100, "arrivals": "constant"}
    return LoadTest.model_validate({**given, **keys})


def share(run: Run, metric: str, name: str) -> float:
    value = run.summary.latencies[metric].percentiles[name].value
    assert value is not None
    return value


def of_measure(folder: Path) -> list[Record]:
    return measured(records.read(folder))


def test_a_stall_shows_where_clients_do_not_wait_for_each_other(server: Scripted, tmp_path: Path) -> None:
    """50 requests/s, one stall of 2 s in 10 s: every twentieth client waited about 1.5 s, whatever Locust's users do."""
    slo = {"e2e_sched_ms": {"p95": 100}}
    fast, stalls = load(rate=50, duration_s=10, slo=slo), "delay=5,stall=2000,at=8000"
    run = lab.measure(served(server, stalls), fast, tmp_path / "open")
    assert run.verdict.state == "fail"
    assert 1300 < share(run, "e2e_sched_ms", "p95") < 2000
    assert run.summary.requests == 500
    # at: the script's clock runs from the cold request, which comes some seconds before the run.
    # The same in a closed loop of as many requests a second: five users, each a tenth of a second between two.
    closed = load(arrivals="closed", clients=5, think_time_s=0.095, duration_s=10)
    run = lab.measure(served(server, f"{stalls},closed=1"), closed, tmp_path / "closed")
    assert share(run, "e2e_ms", "p95") < 100
    assert run.summary.requests < 450
    assert run.summary.offered_per_s is None


def test_streams_times_are_the_server_s_own(server: Scripted, tmp_path: Path) -> None:
    run = lab.measure(served(server, STREAM, stream=True), load(rate=40, duration_s=6), tmp_path / "run")
    assert run.summary.failed == 0
    assert (run.summary.tokens_out, run.summary.tokens_source) == (2400, "server")
    truth = server.truth(STREAM)[-240:]
    true_ms = sorted(1e3 * (line["first_s"] - line["received_s"]) for line in truth)[120]
    assert share(run, "ttft_ms", "p50") == pytest.approx(true_ms, rel=0.1)
    assert share(run, "tpot_ms", "p50") == pytest.approx(50, rel=0.1)
    assert run.summary.latencies["itl_ms"].n == 9 * 240
    # What the warm-up left to be answered is part of the measured seconds' throughput.
    assert run.summary.answered_per_s == pytest.approx(40, rel=0.02)
    assert run.summary.in_flight_mean == pytest.approx(40 * 0.65, rel=0.1)


def test_a_full_pool_makes_requests_late_and_says_so(server: Scripted, tmp_path: Path) -> None:
    run = lab.measure(served(server, "delay=400"), load(rate=40, duration_s=4, users=4), tmp_path / "run")
    assert run.verdict.state == "invalid"
    assert any("users" in why for why in run.verdict.invalid)
    assert run.generator.waited > 100
    assert share(run, "e2e_sched_ms", "p90") > 1500


def test_more_processes_send_the_same_requests(server: Scripted, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    plan = load(rate=60, duration_s=5, arrivals="poisson", seed=7)
    runs = [lab.measure(served(server, "delay=30"), plan, folder, processes=n) for folder, n in ((one, 1), (two, 2))]
    sent = [[(r.seq, r.intended_s, r.payload) for r in of_measure(folder)] for folder in (one, two)]
    assert sent[0] == sent[1]
    assert len(sent[0]) == 300
    assert {record.worker for record in of_measure(two)} == {0, 1}
    assert [run.generator.workers for run in runs] == [1, 2]
    assert runs[0].workload_sha256 == runs[1].workload_sha256
    assert share(runs[1], "e2e_ms", "p50") == pytest.approx(share(runs[0], "e2e_ms", "p50"), rel=0.1)
    assert (runs[0].summary.offered_per_s, runs[1].summary.offered_per_s) == (60, 60)


def locust(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_master_and_its_workers_as_on_many_hosts(server: Scripted, tmp_path: Path) -> None:
    given = ["--host", server.url, "--model", "delay=30", "--payloads", "pydoc-llama", "--rate", "40", "--warmup", "1",
             "--duration", "4", "--slo", "e2e_sched_ms.p90=10000", "--out", str(tmp_path)]  # fmt: skip
    master = locust("--master", "--headless", "--expect-workers", "2", "--master-bind-port", "18997", *given)
    workers = [locust("--worker", "--master-port", "18997") for _ in range(2)]
    output, _ = master.communicate(timeout=60)
    for worker in workers:
        worker.communicate(timeout=20)
    assert master.returncode == 0, output
    assert "PASS" in output
    (folder,) = (tmp_path / "delay=30").iterdir()
    run = read(folder)
    assert (run.summary.requests, run.generator.workers, run.generator.lost) == (160, 2, 0)


def test_a_worker_that_dies_makes_the_run_invalid(server: Scripted, tmp_path: Path) -> None:
    given = ["--host", server.url, "--model", "delay=30", "--payloads", "pydoc-llama", "--rate", "40", "--warmup", "1",
             "--duration", "4", "--timeout", "2", "--out", str(tmp_path)]  # fmt: skip
    master = locust("--master", "--headless", "--expect-workers", "2", "--master-bind-port", "18998", *given)
    workers = [locust("--worker", "--master-port", "18998") for _ in range(2)]
    for _ in range(300):
        if list(tmp_path.rglob("requests.1.jsonl")):
            break
        time.sleep(0.05)
    time.sleep(3)
    workers[0].kill()
    output, _ = master.communicate(timeout=60)
    for worker in workers:
        worker.communicate(timeout=20)
    assert master.returncode == 3, output
    assert "never written down" in output


def test_the_web_ui_starts_and_ends_runs(server: Scripted, tmp_path: Path) -> None:
    ui = locust("--web-port", "18999", "--host", server.url, "--model", "delay=20", "--payloads", "pydoc-llama",
                "--rate", "30", "--warmup", "0", "--duration", "2", "--out", str(tmp_path))  # fmt: skip
    address = "http://127.0.0.1:18999"
    try:
        for _ in range(200):
            try:
                assert "locust" in requests.get(address, timeout=5).text.lower()
                break
            except requests.ConnectionError:
                time.sleep(0.1)
        # As the form sends it: the fields that it shows, with another rate.
        form = {"user_count": 20, "spawn_rate": 20, "host": server.url, "rate": "50"}
        assert requests.post(f"{address}/swarm", data=form, timeout=10).json()["success"]
        for _ in range(300):
            if found := list(tmp_path.rglob("run.json")):
                break
            time.sleep(0.05)
        assert read(found[0]).summary.requests == 100
        assert requests.get(f"{address}/stats/requests", timeout=5).json()["stats"][-1]["num_requests"] == 100
    finally:
        ui.send_signal(signal.SIGINT)
        ui.communicate(timeout=20)


def test_exit_codes_of_the_command_line(server: Scripted, tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return kit("loadtest", "digits", "--host", server.url, "--warmup", "0", "--duration", "2", *arguments)

    passed = run("--rate", "50", "--out", str(tmp_path / "pass"), "--slo", "e2e_sched_ms.p95=10000")
    assert passed.returncode == 0, passed.stderr
    assert json.loads(passed.stdout.splitlines()[-1])["verdict"]["state"] == "pass"
    assert passed.stdout.startswith("PASS")
    failed = run("--rate", "50", "--out", str(tmp_path / "fail"), "--slo", "e2e_sched_ms.p95=0.01")
    assert failed.returncode == 1
    assert "the SLO is broken" in failed.stderr
    few = run("--rate", "50", "--out", str(tmp_path / "few"), "--slo", "e2e_sched_ms.p99=10000")
    assert few.returncode == 3
    assert "459 are needed" in few.stderr
    wrong = run("--rate", "50", "--slo", "e2e_sched.p95=1")
    assert wrong.returncode == 2
    again = run("--rate", "50", "--out", str(tmp_path / "pass"))
    assert again.returncode == 2
    assert "holds a run" in again.stderr
    same = kit("compare", str(tmp_path / "pass"), str(tmp_path / "few"))
    assert same.returncode == 3  # an invalid run is no baseline, and cannot be compared with one
    anew = kit("report", str(tmp_path / "pass"))
    assert anew.returncode == 0
    assert (tmp_path / "pass" / "report.html").stat().st_size > 10_000


def test_nobody_there_is_said_at_once(tmp_path: Path) -> None:
    nowhere = Target(kind="predictions", url="http://127.0.0.1:18994", model="m")
    with pytest.raises(Failed, match="connection"):
        lab.measure(Served(load_model("digits"), nowhere), load(rate=5), tmp_path / "run")
    with pytest.raises(KitError, match="rate"):
        lab.measure(Served(load_model("digits"), nowhere), load(), tmp_path / "other")


def test_a_run_that_is_broken_off_leaves_no_process_and_its_records(server: Scripted, tmp_path: Path) -> None:
    command = [sys.executable, "kit.py", "loadtest", "digits", "--host", server.url, "--rate", "30", "--duration", "60",
               "--warmup", "0", "--out", str(tmp_path / "run")]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for _ in range(300):
        if list(tmp_path.rglob("requests.0.jsonl")):
            break
        time.sleep(0.05)
    time.sleep(3.5)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    _gone, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    # What was written is summed up by hand, and is invalid.
    plan = Plan.model_validate_json((tmp_path / "run" / "plan.json").read_text())
    run = conclude.conclude(plan, tmp_path / "run")
    assert run.verdict.state == "invalid"
    assert run.generator.lost > 1000
    assert replace(run, summary=run.summary) == read(tmp_path / "run")
