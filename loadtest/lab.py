"""One measured run: the cold request, Locust with our timetable, the server's own counts, the run's folder.

Knows nothing of sweeps and searches, which call it again and again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from deploy import local
from deploy.http_client import Unreachable
from loadtest import conclude, server_side, workload
from loadtest.clients import client_of
from loadtest.generator import START_FILE, calls, record_of
from loadtest.plan import PLAN_FILE, Plan
from loadtest.run import RUN_FILE, Cold, Run
from loadtest.serving import Served
from model_configs import ROOT
from model_configs.errors import Failed, KitError
from model_configs.loadtest import LoadTest
from printing import err

LOCUST_LOG = "locust.log"
START_TIMEOUT_S = 60.0
END_GRACE_S = 30.0


def measure(
    served: Served, load: LoadTest, folder: Path, *, processes: int = 1, price: tuple[float, str] | None = None
) -> Run:
    """Make a run against a model that answers, and write its folder: records, run.json, summary.md, report.html.

    folder: made when it is not there, and must hold no run. processes: Locust workers of this machine.
    price: US dollars an hour and what for; the YAML's if not given.
    Raises KitError for a plan that cannot be carried out, Failed when nothing answers or Locust itself fails.
    """
    folder = folder.resolve()
    if (folder / RUN_FILE).exists():
        raise KitError(f"{folder} holds a run", "another --out")
    plan = Plan(
        target=served.target, load=load, payloads=str(workload.find(load.payloads).resolve()), folder=str(folder)
    )
    if not plan.closed:
        plan.timetable()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PLAN_FILE).write_text(plan.model_dump_json(indent=2) + "\n")
    cold = Cold(served.start_s, _cold_request(plan, folder))
    scraper = _Scraper(served.server, plan)
    _run_locust(plan, folder, processes, scraper)
    return conclude.conclude(
        plan,
        folder,
        scrapes=scraper.scrapes,
        config=served.config,
        cold=cold,
        archive_sha256=served.archive_sha256,
        price=price or _price(served),
    )


def _price(served: Served) -> tuple[float, str] | None:
    deploy = served.config.deploy
    if deploy is None or deploy.price_per_hour is None:
        return None
    target = deploy.sagemaker or deploy.ec2
    return deploy.price_per_hour, target.instance_type if target else "deploy.price_per_hour"


def _cold_request(plan: Plan, folder: Path) -> float:
    """The first request, alone: milliseconds. Raises Failed when it gets no good answer."""
    call = calls(plan)[0]
    client = client_of(plan.target, plan.load)()
    answer = client.send(call, plan.load.timeout_s)
    client.close()
    if answer.error is not None:
        raise Failed(f"{plan.target.url or plan.target.model}: the first request got {answer.error}: {answer.detail}")
    record = record_of(answer, call, 0, 0, "cold", None, False, answer.sent_s)
    (folder / "requests.cold.jsonl").write_text(record.line() + "\n")
    return record.e2e_ms


def _run_locust(plan: Plan, folder: Path, processes: int, scraper: _Scraper) -> None:
    command = [
        sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "--only-summary",
        "--plan", str(folder / PLAN_FILE), "--host", plan.target.url or plan.target.kind,
        "--html", str(folder / "locust.html"), *(["--processes", str(processes)] if processes > 1 else []),
    ]  # fmt: skip
    # What an earlier attempt may have left would tell the beginning of another run.
    (folder / START_FILE).unlink(missing_ok=True)
    with (folder / LOCUST_LOG).open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"PYTHONUNBUFFERED": "1"}, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            _wait(process, plan, folder, scraper)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
    if process.returncode != 0:
        end = (folder / LOCUST_LOG).read_text(errors="replace")[-3000:]
        raise Failed(f"locust ended with {process.returncode}:\n{end}")


def _wait(process: subprocess.Popen[bytes], plan: Plan, folder: Path, scraper: _Scraper) -> None:
    """Until Locust has ended, with a bar. Raises Failed when it does not begin, or does not end."""
    began = _beginning(process, folder)
    if began is None:
        return
    threading.Thread(target=scraper.watch, args=(began,), daemon=True).start()
    end = began + plan.total_s
    last = end + plan.load.timeout_s + END_GRACE_S
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        bar = progress.add_task("warm-up", total=plan.total_s)
        while process.poll() is None:
            now = time.time()
            if now > last:
                raise Failed(f"locust did not end in time:\n{(folder / LOCUST_LOG).read_text()[-3000:]}")
            phase = "warm-up" if now < began + plan.load.warmup_s else "measuring" if now < end else "last answers"
            progress.update(bar, completed=now - began, description=phase)
            time.sleep(0.1)


def _beginning(process: subprocess.Popen[bytes], folder: Path) -> float | None:
    """When the run begins, in Unix time; None when Locust ended before it did."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None:
        try:
            return float(json.loads((folder / START_FILE).read_text())["start_at"])
        except (FileNotFoundError, json.JSONDecodeError):  # not there, or half written
            time.sleep(0.05)
        if time.monotonic() > deadline:
            raise Failed(f"locust did not begin in {START_TIMEOUT_S:g} s")
    return None


class _Scraper:
    """Reads the server's counts at both ends of the measured phase; without a server of ours it reads none."""

    def __init__(self, server: local.Server | None, plan: Plan) -> None:
        self._server, self._plan = server, plan
        self.scrapes: list[server_side.Samples] = []

    def watch(self, began: float) -> None:
        """Sleep through the run, which begins at this Unix time, and scrape twice."""
        if self._server is None:
            return
        for at_s in (self._plan.load.warmup_s, self._plan.total_s):
            time.sleep(max(0.0, began + at_s - time.time()))
            try:
                self.scrapes.append(server_side.scrape(self._server, self._plan.target.model))
            except Unreachable as error:
                err.print(f"no metrics of the server: {error}")
                return
