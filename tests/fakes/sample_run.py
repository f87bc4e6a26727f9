"""Runs as the load lab makes them, out of seeded random numbers: no server, no clock, no Locust."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from loadtest import arrivals, stats
from loadtest.plan import Plan, Target
from loadtest.records import Phase, Record
from loadtest.run import Cold, Cost, Run, ServerSide
from loadtest.verdict import judge
from model_configs.loadtest import LoadTest, Percentiles, Slo

MACHINE: dict[str, Any] = {
    "date": "2026-01-31",
    "cpu": "An Example CPU @ 2.5GHz (avx2 avx512f)",
    "usable_cpus": 2,
    "memory_gib": 15.6,
    "kernel": "6.1.0",
    "python": "3.11.9",
    "packages": {"torch": "2.9.0", "torchserve": "0.12.0", "locust": "2.47.0"},
    "commit": "0123abc",
}
CLASSIFIER_LOAD = LoadTest(
    payloads="digits", rate=150, warmup_s=5, duration_s=60, slo=Slo(e2e_sched_ms=Percentiles(p95=50), error_rate=0.001)
)
STREAM_LOAD = LoadTest(
    payloads="prompts",
    arrivals="gamma",
    burstiness=0.5,
    rate=9,
    warmup_s=5,
    duration_s=60,
    slo=Slo(ttft_sched_ms=Percentiles(p95=200), itl_ms=Percentiles(p95=30), error_rate=0.01),
)
COLD = Cold(start_s=11.6, first_request_ms=24.8)
SERVER = ServerSide(0.6, 3.9, 5.4, 7.1, requests=9000, batches=5460, batch_mean=1.65, batch_size=8, refused=0)


def classifier_records(
    load: LoadTest = CLASSIFIER_LOAD, *, seed: int = 1, slow_from_s: float | None = None
) -> list[Record]:
    """Short answers, one at a time. slow_from_s: from then on, for 3 s, answers take 20 times as long."""
    chooser = random.Random(seed)
    return [_answer(chooser, seq, at, load, slow_from_s) for seq, at in enumerate(_times(load))]


def stream_records(load: LoadTest = STREAM_LOAD, *, seed: int = 1) -> list[Record]:
    """Streams of 8 to 64 tokens."""
    chooser = random.Random(seed)
    return [_stream(chooser, seq, at, load) for seq, at in enumerate(_times(load))]


def failing(
    records: Sequence[Record], share: float, *, kind: str = "refused", detail: str = "503 queue full"
) -> list[Record]:
    """The records, of which about a share failed."""
    chooser = random.Random(7)
    status = {"refused": 503, "server_error": 500, "client_error": 400}.get(kind)
    return [
        replace(record, error=kind, detail=detail, status=status, ttft_ms=None, gaps_ms=(), tokens_out=None)
        if chooser.random() < share
        else record
        for record in records
    ]


def sample_run(
    records: Sequence[Record],
    load: LoadTest = CLASSIFIER_LOAD,
    *,
    model: str = "digits",
    server: ServerSide | None = SERVER,
    cold: Cold | None = COLD,
    price_per_hour: float | None = 0.17,
    lag_ms: float = 0.0,
) -> Run:
    """The run that these records are of. lag_ms: made worse by so much, for a run that is not valid."""
    plan = Plan(
        target=Target(kind="predictions", url="http://127.0.0.1:18880", model=model),
        load=load,
        payloads=f"/payloads/{load.payloads}",
        folder=f"/results/{model}",
    )
    measured = stats.measured(records)
    summary = stats.summarise(records, load.warmup_s, load.duration_s, load.slo.request_limits(), closed=plan.closed)
    found = stats.generator(measured, workers=1, cpu_share=0.42)
    generator = replace(found, lag_p99_ms=found.lag_p99_ms + lag_ms)
    return Run(
        id="20260131T101500Z-0123abc",
        model=model,
        plan=plan.model_dump(),
        machine=MACHINE,
        same_machine=True,
        workload_sha256="a" * 64,
        config_sha256="b" * 64,
        archive_sha256="c" * 64,
        locust="2.47.0",
        summary=summary,
        generator=generator,
        verdict=judge(summary, generator, load.slo),
        server=server,
        cold=cold,
        cost=None if price_per_hour is None else _cost(price_per_hour, summary),
    )


def _times(load: LoadTest) -> list[float]:
    warmup = arrivals.poisson(load.rate or 20, load.warmup_s, 2)
    return [*warmup, *(load.warmup_s + each for each in arrivals.poisson(load.rate or 20, load.duration_s, 3))]


def _phase(load: LoadTest, at: float) -> Phase:
    return "warmup" if at < load.warmup_s else "measure"


def _answer(chooser: random.Random, seq: int, at: float, load: LoadTest, slow_from_s: float | None) -> Record:
    slow = slow_from_s is not None and slow_from_s <= at < slow_from_s + 3
    start = 2 * math.exp(-at)  # the first answers of a server are slower
    took = (20 if slow else 1 + start) * chooser.lognormvariate(math.log(14), 0.35)
    return Record(
        seq=seq, worker=seq % 2, phase=_phase(load, at), payload=f"0-{seq % 90:04}.png", intended_s=at,
        sent_s=at + chooser.expovariate(2000), e2e_ms=took, ttfb_ms=0.98 * took, items=1, bytes=120, status=200,
    )  # fmt: skip


def _stream(chooser: random.Random, seq: int, at: float, load: LoadTest) -> Record:
    first = chooser.lognormvariate(math.log(70), 0.4)
    tokens = chooser.randint(8, 64)
    gaps = tuple(chooser.lognormvariate(math.log(11), 0.3) for _ in range(tokens - 1))
    return Record(
        seq=seq, worker=0, phase=_phase(load, at), payload=f"prompt {seq % 20}", intended_s=at,
        sent_s=at + chooser.expovariate(2000), e2e_ms=first + sum(gaps) + 1.5, ttfb_ms=first - 1, ttft_ms=first,
        gaps_ms=gaps, tokens_in=32, tokens_out=tokens, tokens_source="server", bytes=40 * tokens, status=200,
    )  # fmt: skip


def _cost(price_per_hour: float, summary: stats.Summary) -> Cost:
    tokens = summary.tokens_out_per_s
    per_request = price_per_hour / 3600 / summary.goodput_per_s if summary.goodput_per_s else None
    per_token = price_per_hour / 3600 / tokens if tokens else None
    return Cost(
        price_per_hour,
        basis="c7i.large, on demand",
        per_1k_requests=per_request and 1e3 * per_request,
        per_1m_tokens=per_token and 1e6 * per_token,
        per_1k_tokens=per_token and 1e3 * per_token,
        at=f"{summary.goodput_per_s:.1f} requests/s of goodput",
    )
