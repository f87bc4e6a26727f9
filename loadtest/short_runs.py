"""Many short runs by one generator process: what lab.measure does in some seconds each, without a report.

For benchmarks that go through servers, workloads and rates by turns. The clients, the timetables and the records are
those of every other run. Knows nothing of what is compared.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest import records, stats, workload
from loadtest.clients import client_of
from loadtest.generator import calls
from loadtest.line_process import LineProcess
from loadtest.plan import PLAN_FILE, Plan, Target
from loadtest.records import Record
from loadtest.stats import Generator, Summary
from model_configs.errors import Failed
from model_configs.loadtest import LoadTest


@dataclass(frozen=True)
class ShortRun:
    """records: of the measured phase."""

    summary: Summary
    generator: Generator
    records: Sequence[Record]


class ShortRuns:
    """The generator process; a context manager."""

    def __init__(self, log: Path) -> None:
        """log: a file for what it says. Raises Failed."""
        # gevent.monkey makes sockets and sleep gevent's before anything is imported.
        command = [sys.executable, "-m", "gevent.monkey", "--module", "loadtest.generator_process"]
        self._process = LineProcess("the generator", command, log)

    def __enter__(self) -> ShortRuns:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.__exit__(*exception)

    def measure(self, target: Target, load: LoadTest) -> ShortRun:
        """A run, perhaps of no request where answers to the warm-up's took too long. Raises KitError, Failed."""
        with tempfile.TemporaryDirectory() as folder:
            plan = Plan(target=target, load=load, payloads=str(workload.find(load.payloads).resolve()), folder=folder)
            planned = None if plan.closed else sum(time_s >= load.warmup_s for time_s in plan.timetable())
            file = Path(folder) / PLAN_FILE
            file.write_text(plan.model_dump_json())
            self._process.told({"plan": str(file)})
            found = records.read(Path(folder))
            notes = [json.loads(each.read_text())["cpu_share"] for each in Path(folder).glob("worker.*.json")]
        measured = stats.measured(found)
        limits = load.slo.request_limits()
        summary = stats.summarise(found, load.warmup_s, load.duration_s, limits, closed=plan.closed)
        return ShortRun(summary, stats.generator(measured, 1, max(notes, default=None), planned), measured)


def ask_once(target: Target, load: LoadTest) -> float:
    """One request, alone: its milliseconds, however long the queue is that an earlier run left. Raises Failed."""
    plan = Plan(target=target, load=load, payloads=str(workload.find(load.payloads).resolve()), folder="")
    client = client_of(target, load)()
    answer = client.send(calls(plan)[0], load.timeout_s)
    client.close()
    if answer.error is not None:
        raise Failed(f"{target.url}: {answer.error}: {answer.detail}")
    return 1e3 * (answer.ended_s - answer.sent_s)
