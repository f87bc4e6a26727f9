"""Runs against a queue that exists only as arithmetic: what a load test of it would have recorded."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtest.cost import cost
from loadtest.plan import Plan, Target
from loadtest.records import Phase, Record, merge
from loadtest.run import Run
from loadtest.stats import generator, measured, summarise
from loadtest.verdict import judge
from model_configs.loadtest import LoadTest

MACHINE = {"cpu": "a processor (avx2)", "usable_cpus": 2}


def queue(
    times_s: Sequence[float], service_ms: float, seed: int, warmup_s: float = 0.0, base_ms: float = 0.0
) -> list[Record]:
    """One server with exponential service times and an endless queue: M/M/1 when the times are a Poisson process.

    base_ms: added to every latency, but not to the server's work.
    """
    chooser = random.Random(seed)
    free_s, found = 0.0, []
    for place, time_s in enumerate(times_s):
        free_s = max(free_s, time_s) + chooser.expovariate(1e3 / service_ms)
        phase: Phase = "warmup" if time_s < warmup_s else "measure"
        found.append(Record(place, 0, phase, "a", time_s, time_s, 1e3 * (free_s - time_s) + base_ms, status=200))
    return found


def plan_of(load: LoadTest, **target: Any) -> Plan:
    """A plan for a target that does not exist."""
    chosen = {"kind": "predictions", "url": "http://127.0.0.1:1", "model": "minilm"} | target
    return Plan(target=Target(**chosen), load=load, payloads="payloads", folder="folder")


def write(folder: Path, plan: Plan, records: list[Record], *, cpu_share: float = 0.2, **changes: Any) -> Run:
    """The folder that a run of this plan with these records leaves behind; changes: fields of Run. price: dollars."""
    folder.mkdir(parents=True)
    load, chosen = plan.load, measured(records)
    summary = summarise(records, load.warmup_s, load.duration_s, load.slo.request_limits(), closed=plan.closed)
    health = generator(chosen, 1, cpu_share)
    price = changes.pop("price", None)
    run = Run(
        id=folder.name,
        model=plan.target.model,
        plan=plan.model_dump(mode="json"),
        machine=MACHINE,
        same_machine=True,
        workload_sha256="0" * 64,
        config_sha256=None,
        archive_sha256=None,
        locust="2.47",
        summary=summary,
        generator=health,
        verdict=judge(summary, health, load.slo),
        cost=cost(price, "list price", summary.goodput_per_s, summary.tokens_out_per_s) if price else None,
    )
    run = dataclasses.replace(run, **changes)
    run.write(folder)
    merge(folder, records)
    return run
