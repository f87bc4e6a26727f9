"""The highest rate at which a service keeps its SLO: how a step is made and judged, and what comes out.

search.py chooses the rates; this makes its steps real. Knows nothing of Locust.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Literal

from loadtest import lab, report
from loadtest import records as record_files
from loadtest import run as run_files
from loadtest.cost import cost, good_tokens_per_s
from loadtest.percentiles import needed_for
from loadtest.records import Record
from loadtest.run import Cost, Run
from loadtest.search import LOWEST, MAX_PROBES, Found, Outcome, Probe, most_probes, search
from loadtest.serving import Served
from loadtest.stats import SHARES, in_flight_mean, measured
from loadtest.verdict import MAX_CPU_SHARE, MIN_ACHIEVED, State, largest_allowed_lag_ms
from model_configs.errors import Invalid, KitError
from model_configs.loadtest import LoadTest, Slo

SWEEP_FILE = "sweep.json"
SCHEMA = "servekit.sweep/1"
STEP_S = 12.0
STEP_WARMUP_S = 3.0
"""The queue of a new rate is in its usual state after a few of its busy periods; a server that answers is warm."""
CONFIRMING = 2.0
"""A confirming step is this many times as long: it decides, and is what the report shows."""
MARGIN = 2.0
SLIM_MARGIN = 1.1
LONG_STEP_S = 120.0
MAX_STEP_S = 600.0
MIN_TIMEOUT_S = 5.0
TIMEOUT_OF_LIMIT = 10.0
OVERHEAD_S = 6.0
"""Of a step, besides its phases: Locust's start, the last answers, the report."""
LONGER = (1, 2, 4)
"""A step that had too few answers is made again, this many times as long."""
RISE = 1.5
RISE_OF_THIRD = 1.2
MIN_PER_THIRD = 10


@dataclass(frozen=True)
class Point:
    """One step. latency_ms: by metric and percentile, "e2e_sched_ms.p95". run: its folder in the sweep's. state: fail
    also for a valid run that is_saturating, invalid only when the generator spoiled it or it had too few answers."""

    rate: float
    state: State
    run: str
    achieved_per_s: float
    goodput_per_s: float
    latency_ms: dict[str, float | None]
    confirms: bool


@dataclass(frozen=True)
class Sweep:
    """What a sweep found. Of the last step that held at the rate found: run, goodput, latencies, Little's law.

    in_flight, in_flight_expected: requests in flight on average, as counted and as rate × latency; where they are far
    apart, times or counts are wrong. knee: the rate beyond which latency grows faster than throughput.
    """

    model: str
    found: Found
    points: tuple[Point, ...]
    knee: float | None
    run: str | None
    goodput_per_s: float | None
    latency_ms: dict[str, float | None]
    in_flight: float | None
    in_flight_expected: float | None
    cost: Cost | None
    seconds: float
    schema: str = SCHEMA

    @property
    def exit_code(self) -> int:
        """Of kit.py sweep: 1 when no rate held, 3 when the answer is the generator's or there is none that lasts."""
        return {"found": 0, "nothing": 1, "generator": 3, "unsteady": 3}[self.found.ended]


def step_seconds(slo: Slo, rate: float) -> float:
    """How long a step measures: MARGIN × what the SLO's highest percentile needs, at least STEP_S; where that takes
    longer than LONG_STEP_S, hardly more than what is needed."""
    needed = _needed(slo)
    return max(STEP_S, min(MARGIN * needed / rate, LONG_STEP_S), SLIM_MARGIN * needed / rate)


def lowest_rate(slo: Slo, start_rate: float) -> float:
    """The lowest rate that is worth a step: slower ones take too long to have enough answers, or are far from the
    start. Raises KitError when the start rate itself is too low."""
    slowest = SLIM_MARGIN * _needed(slo) / MAX_STEP_S
    if start_rate < slowest:
        raise KitError(
            f"a step at {start_rate:.3g} requests/s would take {step_seconds(slo, start_rate):.0f} s to have "
            f"{_needed(slo)} answers",
            "a lower percentile in the SLO, or a higher --rate to begin with",
        )
    return max(slowest, LOWEST * start_rate)


def step_load(load: LoadTest, probe: Probe, number: int) -> LoadTest:
    """The plan of a sweep's step, the number-th from 1. Seeds differ from step to step.

    The timeout is cut to some times the SLO's longest limit on whole answers: a step of an overloaded server is over
    soon after, and its verdict is the same.
    """
    limits = [limit for metric, _, limit in load.slo.limits() if metric in ("e2e_ms", "e2e_sched_ms")]
    timeout_s = max(MIN_TIMEOUT_S, TIMEOUT_OF_LIMIT * max(limits) / 1e3) if limits else load.timeout_s
    return load.model_copy(
        update={
            "rate": probe.rate,
            "seed": load.seed + number,
            "warmup_s": load.warmup_s if number == 1 else min(load.warmup_s, STEP_WARMUP_S),
            "duration_s": round(step_seconds(load.slo, probe.rate) * (CONFIRMING if probe.confirms else 1), 1),
            "timeout_s": min(load.timeout_s, timeout_s),
        }
    )


def outcome_of(run: Run, records: Sequence[Record]) -> Outcome | Literal["too_few"]:
    """What a step says about its rate. records: all of the run's."""
    summary, health, slo = run.summary, run.generator, run.the_plan.load.slo
    if run.verdict.state == "invalid":
        exhausted = health.waited > 0 and summary.achieved_per_s < MIN_ACHIEVED * (summary.offered_per_s or 0)
        if exhausted:  # all users waited for answers: there is more offered than the server answers
            return "broken"
        late = health.lag_p99_ms > largest_allowed_lag_ms(slo) or (health.cpu_share or 0) > MAX_CPU_SHARE
        behind = summary.achieved_per_s < MIN_ACHIEVED * (summary.offered_per_s or 0)
        return "generator" if late or behind or health.lost else "too_few"
    return "held" if run.verdict.state == "pass" and not is_saturating(measured(records)) else "broken"


def is_saturating(records: Sequence[Record]) -> bool:
    """Whether latency and requests in flight rise all through a step: it would break, were it longer.

    Thirds of the step by intended time: the last one's median latency and mean number in flight are RISE × the first
    one's, and each third's RISE_OF_THIRD × the one's before. An overload's backlog grows by the same in each third; a
    stall within one, which slows fewer than half of its requests, does not count.
    """
    ordered = sorted(records, key=lambda record: record.intended_s)
    if len(ordered) < 3 * MIN_PER_THIRD:
        return False
    start_s, end_s = ordered[0].intended_s, ordered[-1].intended_s
    edges = [start_s + share * (end_s - start_s) / 3 for share in range(4)]
    spans = [(record.intended_s, record.ended_s) for record in ordered]
    thirds = []
    for begin_s, until_s in pairwise(edges):
        inside = [record.e2e_sched_ms for record in ordered if begin_s <= record.intended_s <= until_s]
        if len(inside) < MIN_PER_THIRD:
            return False
        thirds.append((median(inside), in_flight_mean(spans, begin_s, until_s)))
    return all(
        last >= RISE * first and middle >= RISE_OF_THIRD * first and last >= RISE_OF_THIRD * middle
        for first, middle, last in zip(*thirds, strict=True)
    )


def knee(points: Sequence[tuple[float, float]]) -> int | None:
    """Which of points (throughput, latency), both growing, bends most: the one farthest below the straight line from
    the first to the last, both axes scaled to 1 (Satopää et al., Finding a "Kneedle" in a Haystack, ICDCSW 2011).

    None for fewer than 3 points, or when none lies below the line.
    """
    if len(points) < 3:
        return None
    order = sorted(range(len(points)), key=lambda place: points[place])
    (left, low), (right, high) = points[order[0]], points[order[-1]]
    if right <= left or high <= low:
        return None
    below = {
        place: (points[place][0] - left) / (right - left) - (points[place][1] - low) / (high - low) for place in order
    }
    best = max(order, key=lambda place: below[place])
    return best if below[best] > 1e-9 else None


def run_sweep(
    served: Served,
    load: LoadTest,
    folder: Path,
    start_rate: float,
    *,
    tolerance: float = 0.05,
    confirmations: int = 2,
    processes: int = 1,
    price: tuple[float, str] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Sweep:
    """Search with real steps, each in a folder of its own, and write sweep.json and the answer's report into `folder`.

    A sweep that was broken off goes on: steps whose folders hold a run of the same plan are read, not made again.
    price: US dollars an hour and what for. say: gets a line for each step.
    Raises KitError for a load that has no rate to set or too low a one, or a folder of another sweep; Invalid for a
    step that cannot be judged for too few answers; Failed when Locust fails.
    """
    if load.arrivals in ("closed", "ramp", "trace"):
        raise KitError(f"a sweep sets the rate, which arrivals: {load.arrivals} has not", "--arrivals poisson")
    lowest = lowest_rate(load.slo, start_rate)
    began = time.monotonic()
    steps = _Steps(served, load, folder, processes, price, say)
    say(_estimate(load, start_rate, tolerance, confirmations))
    searching = search(start_rate, tolerance, confirmations, lowest=lowest)
    probe = next(searching)
    while True:
        try:
            probe = searching.send(steps.make(probe))
        except StopIteration as stop:
            found: Found = stop.value
            break
    result = _result(served.config.model.name, found, steps, folder, price, time.monotonic() - began)
    (folder / SWEEP_FILE).write_text(json.dumps(document(result), indent=2) + "\n")
    if result.run:
        answer = folder / result.run
        report.write(run_files.read(answer), record_files.read(answer), folder, sweep=result.points)
    return result


def rows(sweep: Sweep) -> list[dict[str, Any]]:
    """The terminal's table: a row a step, by rate."""
    metric = _shown(sweep.points)
    return [
        {
            "requests/s": f"{point.rate:.1f}",
            "sent/s": f"{point.achieved_per_s:.1f}",
            "goodput/s": f"{point.goodput_per_s:.1f}",
            f"{metric} ms": _figure(point.latency_ms.get(metric)),
            "state": point.state + (", confirming" if point.confirms else ""),
            "": "knee" if point.rate == sweep.knee else "",
            "run": point.run,
        }
        for point in sorted(sweep.points, key=lambda point: (point.rate, point.run))
    ]


def in_words(sweep: Sweep) -> list[str]:
    """The answer in lines."""
    found = sweep.found
    if found.rate is None:
        return [f"{sweep.model}: no rate held the SLO; the lowest asked was {_figure(found.broken)} requests/s"]
    above = {
        "found": f"{_figure(found.broken)} does not",
        "generator": f"at {_figure(found.broken)} the generator is the limit: --processes, or another machine",
        "unsteady": "but steps contradict each other, and there is no answer that lasts",
    }[found.ended]
    lines = [f"{sweep.model}: {found.rate:.1f} requests/s hold the SLO, {found.confirmations} times confirmed; {above}"]
    lines.append(
        f"there: goodput {_figure(sweep.goodput_per_s)}/s; in flight {_figure(sweep.in_flight)}, by rate × latency "
        f"{_figure(sweep.in_flight_expected)}"
    )
    if sweep.cost:
        prices = ((sweep.cost.per_1k_requests, "1k requests"), (sweep.cost.per_1m_tokens, "1M tokens"))
        told = [f"${_figure(price)} for {what}" for price, what in prices if price is not None]
        lines.append(f"{', '.join(told)}, at ${_figure(sweep.cost.price_per_hour)} an hour ({sweep.cost.basis})")
    return lines


def document(sweep: Sweep) -> dict[str, Any]:
    """For JSON."""
    return dataclasses.asdict(sweep) | {"exit_code": sweep.exit_code}


class _Steps:
    """Makes steps, or reads those that are there already."""

    def __init__(
        self,
        served: Served,
        load: LoadTest,
        folder: Path,
        processes: int,
        price: tuple[float, str] | None,
        say: Callable[[str], None],
    ) -> None:
        self._served, self._load, self._folder = served, load, folder
        self._processes, self._price, self._say = processes, price, say
        self.points: list[Point] = []
        self.last_held: dict[float, str] = {}
        """Of each rate that held, its last step's folder."""

    def make(self, probe: Probe) -> Outcome:
        """One step, made again for longer when it had too few answers."""
        for longer in LONGER:
            number = len(self.points) + 1
            load = step_load(self._load, probe, number)
            load = load.model_copy(update={"duration_s": longer * load.duration_s})
            folder = self._folder / f"{number:02}-{probe.rate:.1f}rps"
            run = self._run(load, folder)
            outcome = outcome_of(run, record_files.read(folder))
            self.points.append(_point(run, folder.name, probe, outcome))
            self._say(_told(self.points[-1], run, outcome))
            if outcome != "too_few":
                if outcome == "held":
                    self.last_held[probe.rate] = folder.name
                return outcome
        raise Invalid(f"{folder}: {'; '.join(run.verdict.invalid)}")

    def _run(self, load: LoadTest, folder: Path) -> Run:
        if (folder / run_files.RUN_FILE).exists():
            run = run_files.read(folder)
            if not _same(run, load, self._served):
                raise KitError(f"{folder} is a step of another sweep", "another folder, or remove this one")
            return run
        if folder.exists():  # broken off
            shutil.rmtree(folder)
        return lab.measure(self._served, load, folder, processes=self._processes, price=self._price)


def _needed(slo: Slo) -> int:
    return max((needed_for(SHARES[name]) for _, name, _ in slo.limits()), default=1)


def _result(
    model: str, found: Found, steps: _Steps, folder: Path, price: tuple[float, str] | None, seconds: float
) -> Sweep:
    points = tuple(steps.points)
    step = None if found.rate is None else steps.last_held[found.rate]
    run = None if step is None else run_files.read(folder / step)
    summary = run.summary if run else None
    latency = summary.latencies.get("e2e_ms") if summary else None
    return Sweep(
        model=model,
        found=found,
        points=points,
        knee=_knee_rate(points),
        run=step,
        goodput_per_s=summary.goodput_per_s if summary else None,
        latency_ms=_latencies(run) if run else {},
        in_flight=summary.in_flight_mean if summary else None,
        in_flight_expected=summary.achieved_per_s * latency.mean / 1e3 if summary and latency else None,
        cost=_cost(run, folder / step, price) if run and step else None,
        seconds=seconds,
    )


def _cost(run: Run, folder: Path, price: tuple[float, str] | None) -> Cost | None:
    if price is None and run.cost:
        price = run.cost.price_per_hour, run.cost.basis
    if price is None:
        return None
    load, summary = run.the_plan.load, run.summary
    chosen = measured(record_files.read(folder))
    tokens_per_s = good_tokens_per_s(chosen, load.slo.request_limits(), summary.seconds)
    at = f"{load.rate:.4g} requests/s, the highest rate that holds the SLO"
    return cost(*price, summary.goodput_per_s, tokens_per_s, at)


def _knee_rate(points: Sequence[Point]) -> float | None:
    """Of the points that the generator did not spoil, by what was sent."""
    metric = _shown(points)
    drawn = [
        (point, value)
        for point in points
        if point.state != "invalid" and (value := point.latency_ms.get(metric)) is not None
    ]
    place = knee([(point.achieved_per_s, value) for point, value in drawn])
    return None if place is None else drawn[place][0].rate


def _point(run: Run, step: str, probe: Probe, outcome: Outcome | Literal["too_few"]) -> Point:
    states: dict[str, State] = {"held": "pass", "broken": "fail"}
    summary = run.summary
    return Point(
        rate=probe.rate,
        state=states.get(outcome, "invalid"),
        run=step,
        achieved_per_s=summary.achieved_per_s,
        goodput_per_s=summary.goodput_per_s,
        latency_ms=_latencies(run),
        confirms=probe.confirms,
    )


def _latencies(run: Run) -> dict[str, float | None]:
    return {
        f"{metric}.{name}": found.value
        for metric, distribution in run.summary.latencies.items()
        for name, found in distribution.percentiles.items()
    }


def _shown(points: Sequence[Point]) -> str:
    """The percentile that a table shows of all: e2e_sched_ms's highest that any step has."""
    had = {name for point in points for name, value in point.latency_ms.items() if value is not None}
    return next((name for name in ("e2e_sched_ms.p95", "e2e_sched_ms.p50") if name in had), "e2e_sched_ms.p95")


def _same(run: Run, load: LoadTest, served: Served) -> bool:
    """Whether a run is of this plan. Its server's address and token may have changed since."""
    plan, target = run.the_plan, served.target
    alike = all(getattr(plan.target, key) == getattr(target, key) for key in ("kind", "model", "version", "stream"))
    known = run.archive_sha256 is not None and served.archive_sha256 is not None
    return alike and plan.load == load and (not known or run.archive_sha256 == served.archive_sha256)


def _told(point: Point, run: Run, outcome: Outcome | Literal["too_few"]) -> str:
    why = {
        "held": "confirmed" if point.confirms else "held",
        "broken": "; ".join(_broken(run)) or "latency rises all through it: not held",
        "generator": "; ".join(run.verdict.invalid),
        "too_few": "; ".join(run.verdict.invalid),
    }[outcome]
    return f"{point.run}: {run.the_plan.load.duration_s:g} s: {why}"


def _broken(run: Run) -> list[str]:
    wrong = [check for check in run.verdict.checks if not check.holds]
    told = [f"{c.metric} {c.percentile or ''}".strip() + f" {_figure(c.value)} > {_figure(c.limit)}" for c in wrong]
    return [*told, *run.verdict.invalid]


def _estimate(load: LoadTest, start_rate: float, tolerance: float, confirmations: int) -> str:
    """What a sweep takes whose edge is within 8 × the rate that it begins with."""
    steps = most_probes(start_rate, 8 * start_rate, tolerance, confirmations)
    step_s = step_seconds(load.slo, start_rate)
    seconds = steps * (step_s + min(load.warmup_s, STEP_WARMUP_S) + OVERHEAD_S)
    seconds += confirmations * (CONFIRMING - 1) * step_s
    return f"about {steps} steps of {step_s:.0f} s, {seconds / 60:.0f} minutes; {MAX_PROBES} steps at most"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
