"""A run's figures in words, for the terminal, Markdown and the page alike. Knows no layout, and escapes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Literal

from loadtest.charts import amount
from loadtest.percentiles import Percentile
from loadtest.records import Record
from loadtest.run import Cold, Cost, Run, ServerSide
from loadtest.stats import SHARES, Distribution
from loadtest.verdict import MIN_ACHIEVED, Check, State, largest_allowed_lag_ms
from model_configs.loadtest import LoadTest

METRICS = {
    "e2e_sched_ms": "E2E from the intended time",
    "e2e_ms": "E2E",
    "ttft_sched_ms": "TTFT from the intended time",
    "ttft_ms": "TTFT",
    "tpot_ms": "TPOT",
    "itl_ms": "ITL, all gaps",
    "ttfb_ms": "first byte",
}
"""In the order in which they are told."""
TOKENS_FROM = {"server": "by the server's usage", "chunks": "chunks with text, not tokens"}
Facts = list[tuple[str, str]]


def load_in_words(load: LoadTest) -> str:
    """Open or closed loop, and what it was asked for."""
    if load.arrivals == "closed":
        clients = f"{load.clients} client{'s' if load.clients > 1 else ''}"
        return f"closed loop, {clients}, think time {load.think_time_s:g} s"
    if load.arrivals == "ramp":
        return f"open loop, a ramp from {load.rate or 0:g} to {load.end_rate or 0:g} requests/s"
    kind = {
        "poisson": "Poisson arrivals",
        "gamma": f"gamma arrivals of burstiness {load.burstiness:g}",
        "trace": f"the trace {load.trace}",
    }
    rate = "" if load.rate is None else f", {load.rate:g} requests/s"
    return f"open loop, {kind.get(load.arrivals, f'{load.arrivals} arrivals')}{rate}"


def rate_in_words(run: Run) -> str:
    """Answered over offered; answered alone in a closed loop."""
    summary = run.summary
    offered = "" if summary.offered_per_s is None else f"/{amount(summary.offered_per_s)}"
    return f"{amount(summary.answered_per_s)}{offered} requests/s"


def latencies(run: Run) -> list[tuple[str, Distribution]]:
    """A run's latencies in METRICS' order."""
    return [(name, run.summary.latencies[name]) for name in METRICS if name in run.summary.latencies]


def cells(found: Distribution) -> dict[str, str]:
    """Percentiles with their bounds, mean and max."""
    percentiles = {name: percentile_in_words(found.percentiles[name]) for name in SHARES}
    return {**percentiles, "mean": ms(found.mean), "max": ms(found.max)}


def percentile_in_words(found: Percentile) -> str:
    """ "412 ms (≤ 447)", or how many values are missing to speak of it."""
    return f"n/a (need ≥ {found.needed})" if found.value is None else bounded(found.value, found.upper)


def bounded(value: float, upper: float | None) -> str:
    """Milliseconds with their 95 % bound, where there is one."""
    return ms(value) if upper is None else f"{ms(value)} (≤ {amount(upper)})"


def ms(value: float) -> str:
    """Milliseconds."""
    return f"{amount(value)} ms"


def share(value: float | None) -> str:
    """A part of 1 in per cent."""
    return "n/a" if value is None else f"{100 * value:.3g} %"


def check_in_words(check: Check) -> str:
    """One limit, what was measured, and what it allows."""
    if check.metric == "error_rate":
        return f"errors {share(check.value)}, limit {share(check.limit)}"
    measured = "n/a" if check.value is None else bounded(check.value, check.upper)
    return f"{check.metric} {check.percentile} {measured}, limit {check.limit:g}"


def slo_row(run: Run, check: Check) -> dict[str, str]:
    """One limit for a table. state: never pass or fail in a run that is not valid."""
    if check.metric == "error_rate":
        what, measured, limit = "failed requests", share(check.value), share(check.limit)
    else:
        what, limit = f"{METRICS[check.metric]}, {check.percentile}", f"{check.limit:g} ms"
        found = run.summary.latencies.get(check.metric)
        measured = percentile_in_words(found.percentiles[str(check.percentile)]) if found else "no value"
    state: State = "pass" if check.holds else "fail"
    word = "holds" if check.holds else "broken"
    if run.verdict.state == "invalid":
        state, word = "invalid", "not judged"
    return {"what": what, "measured": measured, "limit": f"≤ {limit}", "word": word, "state": state}


def reasons(run: Run) -> list[str]:
    """Why the verdict is what it is."""
    verdict = run.verdict
    if verdict.state == "invalid":
        return list(verdict.invalid)
    rows = [slo_row(run, check) for check in verdict.checks]
    broken = [f"{row['what']}: {row['measured']}, allowed {row['limit']}" for row in rows if row["state"] == "fail"]
    judged = " by its 95 % bound" if run.the_plan.load.slo.strict else ""
    return broken or [f"Every limit of the SLO holds{judged}."]


def main_metric(run: Run) -> Literal["e2e_ms", "e2e_sched_ms"]:
    """The latency that a run is told by: from the intended time, where there is one."""
    return "e2e_ms" if run.the_plan.closed else "e2e_sched_ms"


def key_figures(run: Run) -> Iterator[tuple[str, str, str]]:
    """Name, value and a word on it."""
    summary = run.summary
    low, high = summary.answered_interval or (0.0, 0.0)
    interval = f"95 %: {amount(max(0.0, low))} to {amount(high)}" if high else "too short for an interval"
    offered = "" if summary.offered_per_s is None else f"of {amount(summary.offered_per_s)}/s offered; "
    yield "answered", f"{amount(summary.answered_per_s)}/s", offered + interval
    yield "goodput", f"{amount(summary.goodput_per_s)}/s", f"{share(summary.good_share)} within every limit"
    if main := summary.latencies.get(main_metric(run)):
        found = main.percentiles["p95"]
        bound = "" if found.upper is None else f", ≤ {amount(found.upper)} with 95 % confidence"
        value = "n/a" if found.value is None else ms(found.value)
        yield "p95", value, f"{METRICS[main_metric(run)]}{bound}"
    yield "failed", share(summary.error_rate), f"{summary.failed:,} of {summary.requests:,} requests"
    yield "in flight", amount(summary.in_flight_mean), f"on average; {summary.in_flight_peak} at most"
    if summary.tokens_out_per_s is not None:
        yield "tokens out", f"{amount(summary.tokens_out_per_s)}/s", TOKENS_FROM.get(str(summary.tokens_source), "")
    if abs(summary.items_per_s - summary.answered_per_s) > 1e-6:
        yield "items", f"{amount(summary.items_per_s)}/s", "texts or images"
    if run.cost and run.cost.per_1k_requests is not None:
        yield "cost", f"${amount(run.cost.per_1k_requests)}", "for 1,000 requests"


def batch_facts(found: ServerSide) -> Facts:
    """What TorchServe counted."""
    facts = [("requests", f"{found.requests:,}"), ("5xx answers, of all models", f"{found.refused:,}")]
    if found.batches is not None and found.batch_mean is not None:
        fill = f" of {found.batch_size} ({share(found.batch_mean / found.batch_size)})" if found.batch_size else ""
        facts += [("calls of the handler", f"{found.batches:,}")]
        facts += [("requests in a call", f"{amount(found.batch_mean)}{fill}")]
    return facts


def cold_facts(cold: Cold) -> Facts:
    """From nothing to answers."""
    started = "it ran already" if cold.start_s is None else f"{amount(cold.start_s)} s"
    return [("from start to the first right answer", started), ("the first request, alone", ms(cold.first_request_ms))]


def cost_facts(cost: Cost) -> Facts:
    """Prices and what they are of."""
    prices = {
        "1,000 requests": cost.per_1k_requests,
        "1,000 tokens": cost.per_1k_tokens,
        "1,000,000 tokens": cost.per_1m_tokens,
    }
    return [
        *((f"for {what}", f"${amount(price)}") for what, price in prices.items() if price is not None),
        ("price", f"${amount(cost.price_per_hour)} an hour, {cost.basis}"),
        ("at", cost.at),
    ]


def soundness(run: Run, measured: Sequence[Record]) -> Iterator[tuple[str, str]]:
    """What lets one believe the figures, or not."""
    generator, summary = run.generator, run.summary
    workers = f"{generator.workers} worker{'s' if generator.workers > 1 else ''}, Locust {run.locust}"
    yield "generator", f"{workers}, on {'the machine of the server' if run.same_machine else 'another machine'}"
    cpu = generator.cpu_share
    yield "its CPU", "not measured" if cpu is None else f"{share(cpu)} of a core, the busiest worker"
    if summary.offered_per_s:
        allowed = largest_allowed_lag_ms(run.the_plan.load.slo)
        lag = f"p50 {ms(generator.lag_p50_ms)}, p99 {ms(generator.lag_p99_ms)}, max {ms(generator.lag_max_ms)}"
        yield "sent late by", f"{lag}; p99 may be {allowed:g} ms"
        yield "late because all users waited", f"{generator.waited:,} requests"
        sent = summary.achieved_per_s / summary.offered_per_s
        yield "sent in their time", f"{share(sent)}; at least {share(MIN_ACHIEVED)} have to be"
        if generator.lost:
            yield "never written down", f"{generator.lost:,} requests"
    if measured:
        little = summary.achieved_per_s * fmean(record.e2e_ms for record in measured) / 1e3
        law = f"rate × mean E2E = {amount(little)}, in flight were {amount(summary.in_flight_mean)}"
        agree = abs(little - summary.in_flight_mean) <= max(0.1 * little, 0.1)
        yield "Little's law", f"{law}: {'they agree' if agree else 'they differ, so the load was not steady'}"


def machine_facts(run: Run) -> Iterator[tuple[str, str]]:
    """The machine's passport and the digests of what was measured."""
    for name, value in run.machine.items():
        if name == "packages":
            yield name, ", ".join(f"{package} {version}" for package, version in dict(value).items())
        else:
            yield name.replace("_", " "), str(value)
    digests = {"workload": run.workload_sha256, "configuration": run.config_sha256, "archive": run.archive_sha256}
    for name, digest in digests.items():
        yield f"{name}, sha256", digest[:16] if digest else "unknown"
