"""PASS, FAIL or INVALID: the SLO against what was measured, and whether the measurement may be believed at all.

Pure; knows nothing of how a run is made. An invalid run is neither green nor a baseline, whatever its figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from loadtest.percentiles import needed_for
from loadtest.stats import SHARES, Generator, Summary
from model_configs.loadtest import Slo

State = Literal["pass", "fail", "invalid"]
EXIT_CODES: dict[State, int] = {"pass": 0, "fail": 1, "invalid": 3}
MAX_LAG_MS = 10.0
MAX_LAG_OF_LIMIT = 0.01
MIN_ACHIEVED = 0.98
MAX_CPU_SHARE = 0.9


@dataclass(frozen=True)
class Check:
    """One limit of the SLO. value: what was measured; upper: its 95 % bound where it is a percentile."""

    metric: str
    percentile: str | None
    limit: float
    value: float | None
    upper: float | None
    holds: bool


@dataclass(frozen=True)
class Verdict:
    """state, every limit's check, and why the run is invalid when it is."""

    state: State
    checks: tuple[Check, ...]
    invalid: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """Of the command that made the run."""
        return EXIT_CODES[self.state]


def judge(summary: Summary, generator: Generator, slo: Slo) -> Verdict:
    """The verdict on a measured phase."""
    checks = tuple(_checks(summary, slo))
    invalid = (*_problems(summary, generator, slo), *_too_few(summary, slo))
    state: State = "invalid" if invalid else "pass" if all(check.holds for check in checks) else "fail"
    return Verdict(state, checks, invalid)


def largest_allowed_lag_ms(slo: Slo) -> float:
    """10 ms, or 1 % of the tightest scheduled limit if that is more: what lag may add to a latency unnoticed."""
    tightest = min((limit for metric, _, limit in slo.limits() if metric.endswith("_sched_ms")), default=0.0)
    return max(MAX_LAG_MS, MAX_LAG_OF_LIMIT * tightest)


def _checks(summary: Summary, slo: Slo) -> Iterator[Check]:
    holds = summary.error_rate <= slo.error_rate
    yield Check("error_rate", None, slo.error_rate, summary.error_rate, None, holds)
    for metric, name, limit in slo.limits():
        found = summary.latencies.get(metric)
        measured = found.percentiles[name] if found else None
        value = measured.value if measured else None
        upper = measured.upper if measured else None
        judged = upper if slo.strict else value
        yield Check(metric, name, limit, value, upper, judged is not None and judged <= limit)


def _problems(summary: Summary, generator: Generator, slo: Slo) -> Iterator[str]:
    allowed = largest_allowed_lag_ms(slo)
    if summary.offered_per_s is not None:
        if generator.lag_p99_ms > allowed:
            yield (
                f"the generator sent late: p99 {generator.lag_p99_ms:.1f} ms, allowed {allowed:.0f}; more workers "
                "(--processes), or another machine"
            )
        achieved = summary.achieved_per_s / summary.offered_per_s if summary.offered_per_s else 0.0
        if achieved < MIN_ACHIEVED:
            why = f"; {generator.waited} waited for one of the users" if generator.waited else ""
            yield f"only {achieved:.1%} of the requests were sent in their time{why}"
    if generator.lost:
        yield f"{generator.lost} requests of the timetable were never written down: a worker died, or was stopped"
    if generator.cpu_share is not None and generator.cpu_share > MAX_CPU_SHARE:
        yield f"the generator used {generator.cpu_share:.0%} of its core; more workers (--processes)"


def _too_few(summary: Summary, slo: Slo) -> Iterator[str]:
    if not summary.requests:
        yield "no request was measured"
        return
    if summary.error_rate > slo.error_rate:
        return  # that answers are missing is then the server's failure, not the run's
    for metric, name, _ in slo.limits():
        found = summary.latencies.get(metric)
        n, needed = (found.n if found else 0), needed_for(SHARES[name])
        if n < needed:
            yield f"{metric} {name} of {n} values: {needed} are needed, so a longer run or a higher rate"
