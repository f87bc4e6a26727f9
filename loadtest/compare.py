"""Two sides of runs against each other: which metrics changed, by how much, and how sure that is.

Works on what runs left behind, run.json and the records; knows nothing of how they were made. An interval says what
chance within these runs allows. That the same service differs from one start to the next shows only in several runs a
side, best made in turns (A, B, A, B), so that what changes on the machine meets both.
"""

from __future__ import annotations

import dataclasses
import math
import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import mul
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

from loadtest import records as record_files
from loadtest import run as run_files
from loadtest.cost import cost
from loadtest.figures import markdown_table
from loadtest.percentiles import CONFIDENCE, interpolated, needed_for, students_t
from loadtest.records import Record
from loadtest.run import Run
from loadtest.stats import LATENCIES, SHARES, is_good, measured
from model_configs.errors import Invalid, KitError

RESAMPLES = 1000
CELLS = 60
BLOCK_S = 5.0
MIN_BLOCKS = 10
STRIDE = 64
PER_TOKEN = ("tpot_ms", "itl_ms")
PER_TOKEN_MIN = 0.1
"""How much of min_ms counts for a metric of single tokens, of which an answer has many."""
COMPARED = ("p50", "p95", "p99")

Judgement = Literal["better", "worse", "same", "n/a"]
Weights = Sequence[int]
"""How often each cell of a side is in a resample."""


@dataclass(frozen=True)
class Metric:
    """One metric of both sides. delta: new - base; relative: delta / base, None for a base of 0.

    interval: of delta; all metrics' hold together with 95 % confidence. judgement: better or worse when the interval
    excludes 0 and delta is large enough to matter. why: of n/a.
    """

    name: str
    unit: str
    base: float | None
    new: float | None
    delta: float | None
    relative: float | None
    interval: tuple[float, float] | None
    judgement: Judgement
    why: str | None


@dataclass(frozen=True)
class Comparison:
    """unlike: in what the runs differ, when they were compared all the same."""

    base: tuple[str, ...]
    new: tuple[str, ...]
    unlike: tuple[str, ...]
    tolerance: float
    min_ms: float
    metrics: tuple[Metric, ...]

    @property
    def regressions(self) -> list[Metric]:
        """What got worse."""
        return [metric for metric in self.metrics if metric.judgement == "worse"]

    @property
    def exit_code(self) -> int:
        """Of kit.py compare."""
        return 1 if self.regressions else 0

    @property
    def notes(self) -> list[str]:
        """What a reader has to know besides the metrics."""
        forced = [f"{_forced(self.unlike)}"] if self.unlike else []
        if min(len(self.base), len(self.new)) < 2:
            forced.append("one run a side: what differs from run to run is not in the intervals; several do better")
        return forced


def compare(
    bases: Sequence[Path],
    news: Sequence[Path],
    tolerance: float = 0.05,
    min_ms: float = 2.0,
    *,
    force: bool = False,
    seed: int = 0,
) -> Comparison:
    """Compare the runs in these folders, several of a side pooled.

    A metric is better or worse if 0 is outside its interval, and |delta| is more than tolerance × base and, for
    milliseconds, than min_ms (a tenth of it for those of single tokens). Goodput is counted by the first base's SLO.
    force: compare unlike runs all the same. Raises KitError for runs that are unlike or cannot be read, Invalid for one
    whose verdict is invalid, whether forced or not.
    """
    runs = [run_files.read(path) for path in (*bases, *news)]
    _refuse_invalid(runs)
    unlike = unlikeness(runs)
    if unlike and not force:
        raise KitError("these runs do not compare: " + "; ".join(unlike), "make them alike, or --force")
    limits = runs[0].the_plan.load.slo.request_limits()
    sides = [
        Side([(read, _warm(path)) for read, path in zip(each, paths, strict=True)], limits)
        for each, paths in ((runs[: len(bases)], bases), (runs[len(bases) :], news))
    ]
    chooser = random.Random(seed)
    drawn = [[side.draw(chooser) for _ in range(RESAMPLES)] for side in sides]
    asked = [
        (question, _differences(question, sides, drawn) if _enough(question, sides) else [])
        for question in _questions(*sides)
    ]
    tail = _widened(_joint_tail([found for _, found in asked]), *(side.units for side in sides))
    metrics = tuple(
        _metric(question, sides, found, tail, tolerance, min_ms * question.min_share) for question, found in asked
    )
    ids = [run.id for run in runs]
    return Comparison(tuple(ids[: len(bases)]), tuple(ids[len(bases) :]), tuple(unlike), tolerance, min_ms, metrics)


def folders(argument: str) -> list[Path]:
    """The folders of a command line's argument: one, or several with commas between."""
    whole = Path(argument)
    return [whole] if whole.exists() else [Path(part) for part in argument.split(",") if part]


def unlikeness(runs: Sequence[Run]) -> list[str]:
    """In what runs differ that have to be alike, in words; SLOs may differ."""
    found = [_likeness(run) for run in runs]
    return [
        f"{name}: " + " against ".join(dict.fromkeys(str(each[name])[:80] for each in found))
        for name in found[0]
        if any(each[name] != found[0][name] for each in found)
    ]


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """The terminal's table."""
    forced = {"forced": _forced(comparison.unlike)} if comparison.unlike else {}
    return [
        {
            "metric": f"{metric.name} {metric.unit}".strip(),
            "base": _figure(metric.base),
            "new": _figure(metric.new),
            "change": _figure(metric.delta, signed=True),
            "%": None if metric.relative is None else f"{metric.relative:+.1%}",
            "95 % interval": None
            if metric.interval is None
            else " to ".join(_figure(end, signed=True) or "" for end in metric.interval),
            "verdict": f"n/a: {metric.why}" if metric.why else metric.judgement,
            **forced,
        }
        for metric in comparison.metrics
    ]


def document(comparison: Comparison) -> dict[str, Any]:
    """For JSON."""
    forced = bool(comparison.unlike)
    return {
        "base": list(comparison.base),
        "new": list(comparison.new),
        "regression": bool(comparison.regressions),
        "forced": forced,
        "unlike": list(comparison.unlike),
        "notes": comparison.notes,
        "tolerance": comparison.tolerance,
        "min_ms": comparison.min_ms,
        "metrics": [dataclasses.asdict(metric) | {"forced": forced} for metric in comparison.metrics],
    }


def markdown(comparison: Comparison) -> str:
    """For a pull request's summary."""
    shown = rows(comparison)
    worse = [metric.name for metric in comparison.regressions]
    forced = f" ({_forced(comparison.unlike)})" if comparison.unlike else ""
    head = f"**{'Worse: ' + ', '.join(worse) if worse else 'No regression'}**{forced}"
    sides = f"base {', '.join(comparison.base)}; new {', '.join(comparison.new)}{forced}"
    table = markdown_table([*shown[0]], [["–" if cell is None else cell for cell in row.values()] for row in shown])
    notes = [f"- {note}" for note in comparison.notes if not note.startswith("forced")]
    return "\n\n".join([head, sides, table, *notes]) + "\n"


class Side:
    """The requests of one side's runs, cut into cells of time: CELLS of each run, numbered through.

    A resample is a number for each cell: how often it is in it. Whatever a metric needs is counted by cell
    beforehand, so that a resample costs about as much as there are cells, not as there are requests.
    """

    def __init__(self, runs: Sequence[tuple[Run, list[Record]]], limits: dict[str, float]) -> None:
        first = runs[0][0].the_plan
        self.closed = first.closed
        self.runs = len(runs)
        self.price_per_hour = _one({run.cost.price_per_hour if run.cost else None for run, _ in runs})
        self.cell_s = [run.summary.seconds / CELLS for run, _ in runs for _ in range(CELLS)]
        self.block = _block(runs[0][0].summary.seconds)
        placed = [
            (CELLS * place + _cell(record.sent_s if self.closed else record.intended_s, run), record)
            for place, (run, records) in enumerate(runs)
            for record in measured(records)
        ]
        ended = (
            (CELLS * place + _cell(record.ended_s, run), 1)
            for place, (run, records) in enumerate(runs)
            for record in records
            if record.error is None and 0 <= record.ended_s - run.the_plan.load.warmup_s < run.summary.seconds
        )
        fine = [(cell, record) for cell, record in placed if record.error is None]
        kept = [(cell, record) for cell, record in fine if is_good(record, limits)]
        self.sent = self._count((cell, 1) for cell, _ in placed)
        self.failed = self._count((cell, 1) for cell, record in placed if record.error)
        self.kept = self._count((cell, 1) for cell, _ in kept)
        self.kept_tokens = self._count((cell, record.tokens_out or 0) for cell, record in kept)
        self.answered = self._count(ended)
        self.has_tokens = any(record.tokens_out is not None for _, record in fine)
        self.latencies = {
            name: Weighed(found, len(self.cell_s))
            for name in (*_scheduled(self.closed), *PER_TOKEN)
            if (found := [(value, cell) for cell, record in fine for value in _values(name, record)])
        }
        self.ones = [1] * len(self.cell_s)

    @property
    def units(self) -> int:
        """How many independent parts a resample draws from: runs, or of a single run its blocks."""
        return self.runs if self.runs > 1 else CELLS // self.block

    def draw(self, chooser: random.Random) -> list[int]:
        """A resample: runs with replacement, and of each a circular block bootstrap (Politis and Romano, 1992)."""
        weights = [0] * len(self.cell_s)
        for _ in range(self.runs):
            first = CELLS * chooser.randrange(self.runs)
            for _ in range(CELLS // self.block):
                start = chooser.randrange(CELLS)
                for cell in range(start, start + self.block):
                    weights[first + cell % CELLS] += 1
        return weights

    def per_s(self, counts: Sequence[int], weights: Weights) -> float | None:
        """Of these counts a second.

        An open loop sends exactly as many requests as its plan says, whatever the seed: there only the share of them
        is by chance, and the rate is not.
        """
        if self.closed:
            return _ratio(_dot(weights, counts), sum(map(mul, weights, self.cell_s)))
        share = _ratio(_dot(weights, counts), _dot(weights, self.sent))
        return None if share is None else share * sum(self.sent) / sum(self.cell_s)

    def error_rate(self, weights: Weights) -> float | None:
        """Share of requests that failed."""
        return _ratio(_dot(weights, self.failed), _dot(weights, self.sent))

    def _count(self, placed: Iterator[tuple[int, int]]) -> list[int]:
        counts = [0] * len(self.cell_s)
        for cell, number in placed:
            counts[cell] += number
        return counts


class Weighed:
    """Values in cells, whose percentiles are asked for again and again with other weights of the cells.

    Sorted once; `rows` counts by cell the values before every STRIDE-th, so that a weighed rank is found by bisection
    over rows and a walk of at most a few strides.
    """

    def __init__(self, placed: Sequence[tuple[float, int]], cells: int) -> None:
        ordered = sorted(placed)
        self.values = [value for value, _ in ordered]
        self.cells = [cell for _, cell in ordered]
        counts = [0] * cells
        self.rows = []
        for place, cell in enumerate(self.cells):
            if place % STRIDE == 0:
                self.rows.append(counts.copy())
            counts[cell] += 1
        self.rows.append(counts)

    def percentile(self, share: float, weights: Weights) -> float | None:
        """As percentiles.interpolated of the values, each as often as its cell's weight; None if there are none."""
        total = _dot(weights, self.rows[-1])
        if not total:
            return None
        place = share * (total - 1)
        rank = int(place)
        row = bisect_right(self.rows, rank, key=lambda counts: _dot(weights, counts)) - 1
        seen, index = _dot(weights, self.rows[row]), STRIDE * row - 1
        while seen <= rank:
            index += 1
            seen += weights[self.cells[index]]
        below = self.values[index]
        while seen <= min(rank + 1, total - 1):
            index += 1
            seen += weights[self.cells[index]]
        return below + (place - rank) * (self.values[index] - below)


@dataclass(frozen=True)
class Question:
    """A metric to be compared. ask: its value of a side under weights. needed: fewest values, counted, of a side."""

    name: str
    unit: str
    more_is_better: bool
    ask: Callable[[Side, Weights], float | None]
    counted: Callable[[Side], int] = lambda side: sum(side.sent)
    needed: int = 1
    min_share: float = 0.0
    """How much of min_ms |delta| has to exceed."""


def _questions(base: Side, new: Side) -> Iterator[Question]:
    for name in base.latencies:
        if name in new.latencies:
            for level in COMPARED:
                yield Question(
                    f"{name.removesuffix('_ms')} {level}",
                    "ms",
                    False,
                    partial(_percentile, name, SHARES[level]),
                    lambda side, name=name: len(side.latencies[name].values),  # type: ignore[misc]
                    needed_for(SHARES[level]),
                    PER_TOKEN_MIN if name in PER_TOKEN else 1.0,
                )
    yield Question("goodput", "/s", True, lambda side, weights: side.per_s(side.kept, weights))
    yield Question("answered", "/s", True, lambda side, weights: side.per_s(side.answered, weights))
    yield Question("error_rate", "", False, Side.error_rate)
    if base.price_per_hour and new.price_per_hour:
        yield Question("cost", "$/1k requests", False, partial(_cost, "per_1k_requests"))
        if base.has_tokens and new.has_tokens:
            yield Question("cost", "$/1M tokens", False, partial(_cost, "per_1m_tokens"))


def _metric(
    question: Question,
    sides: Sequence[Side],
    found: Sequence[float | None],
    tail: float,
    tolerance: float,
    min_delta: float,
) -> Metric:
    base, new = (question.ask(side, side.ones) for side in sides)
    if not _enough(question, sides) or base is None or new is None:
        few = min(question.counted(side) for side in sides)
        why = f"{few} values, {question.needed} are needed" if few < question.needed else "a side has none"
        return Metric(question.name, question.unit, None, None, None, None, None, "n/a", why)
    differences = sorted(each for each in found if each is not None)
    if not differences:
        return Metric(question.name, question.unit, base, new, None, None, None, "n/a", "no resample has a value")
    interval = interpolated(differences, tail), interpolated(differences, 1 - tail)
    delta = new - base
    sure = interval[0] > 0 or interval[1] < 0
    matters = abs(delta) > max(tolerance * abs(base), min_delta)
    judgement: Judgement = "same"
    if sure and matters:
        judgement = "better" if (delta > 0) == question.more_is_better else "worse"
    relative = delta / base if base else None
    return Metric(question.name, question.unit, base, new, delta, relative, interval, judgement, None)


def _enough(question: Question, sides: Sequence[Side]) -> bool:
    return min(question.counted(side) for side in sides) >= question.needed


def _differences(question: Question, sides: Sequence[Side], drawn: Sequence[Sequence[Weights]]) -> list[float | None]:
    """new - base of each pair of resamples; None where one of them has no value."""
    pairs = [[question.ask(side, weights) for weights in each] for side, each in zip(sides, drawn, strict=True)]
    return [None if base is None or new is None else new - base for base, new in zip(*pairs, strict=True)]


def _joint_tail(metrics: Sequence[Sequence[float | None]]) -> float:
    """The share to leave out at each end of every metric's resamples so that 95 % of them are inside all intervals.

    One metric that is worse fails the whole comparison, so chance must not get a try for each: of 400 pairs of equal
    runs of M/M/1, with 6 metrics, intervals of 95 % each failed 5 to 7 %, joint ones 1 to 5 % (the most at 70 % load).
    Ranks keep each interval's own shape, and metrics that move together cost little (Mandel and Betensky,
    Computational Statistics & Data Analysis 52, 2008).
    """
    worst: list[float] = []
    for found in metrics:
        ordered = sorted(each for each in found if each is not None)
        if not ordered or ordered[0] == ordered[-1]:
            continue  # nothing that chance could have a part in
        count = len(ordered)
        tails = [
            0.5 if each is None else min(bisect_right(ordered, each), count - bisect_left(ordered, each)) / count
            for each in found
        ]
        worst = [min(pair) for pair in zip(worst, tails, strict=True)] if worst else tails
    return interpolated(sorted(worst), 1 - CONFIDENCE) if worst else (1 - CONFIDENCE) / 2


def _widened(tail: float, *units: int) -> float:
    """A tail for resamples of few units. A bootstrap of few is too narrow by √(1 - 1/units) and knows nothing of
    Student's t; Hesterberg (The American Statistician 69, 2015) widens the percentiles by both. Of 2 runs a side that
    is the whole range of the resamples."""
    fewest = min(units)
    wide = students_t(sum(units) - len(units)) / NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    wide *= math.sqrt(fewest / (fewest - 1))
    return NormalDist().cdf(wide * NormalDist().inv_cdf(min(tail, 0.5)))


def _block(seconds: float) -> int:
    """Cells that are drawn together, a divisor of CELLS.

    Neighbours are alike: they met in one queue and one batch. That memory lasts for a busy period, well below seconds
    for a service that keeps up, so that 5 s (as long as stats.BATCH_S, for the same reason) hold most of it; no
    longer than a tenth of a run, since a bootstrap of fewer than 10 blocks knows little of their spread.
    """
    wanted = min(math.ceil(BLOCK_S / (seconds / CELLS)), CELLS // MIN_BLOCKS)
    return max(each for each in range(1, wanted + 1) if CELLS % each == 0)


def _refuse_invalid(runs: Sequence[Run]) -> None:
    wrong = [run for run in runs if run.verdict.state == "invalid"]
    if wrong:
        reasons = "; ".join(f"{run.id}: {', '.join(run.verdict.invalid)}" for run in wrong)
        raise Invalid(f"an invalid run is neither a baseline nor a candidate: {reasons}")


def _likeness(run: Run) -> dict[str, Any]:
    plan = run.the_plan
    load = plan.load.model_dump()
    return {
        "model": run.model,
        "workload": run.workload_sha256,
        "target": plan.target.kind,
        "stream": plan.target.stream,
        **{key: load[key] for key in ("arrivals", "rate", "end_rate", "burstiness", "trace")},
        **{key: load[key] if plan.closed else None for key in ("clients", "think_time_s")},
        "cpu": run.machine.get("cpu"),
        "usable_cpus": run.machine.get("usable_cpus"),
        "generator on the server's machine": run.same_machine,
    }


def _warm(path: Path) -> list[Record]:
    """All records but the cold ones: what the warm-up left to be answered counts as answered."""
    folder = path if path.is_dir() else path.parent
    found = [record for record in record_files.read(folder) if record.phase != "cold"]
    if not measured(found):
        raise KitError(f"{folder} has no records of the measured phase", "keep requests.jsonl.gz beside run.json")
    return found


def _cell(time_s: float, run: Run) -> int:
    place = int((time_s - run.the_plan.load.warmup_s) / run.summary.seconds * CELLS)
    return min(max(place, 0), CELLS - 1)


def _values(name: str, record: Record) -> Sequence[float]:
    if name == "itl_ms":
        return record.gaps_ms
    value = LATENCIES[name](record)
    return () if value is None else (value,)


def _scheduled(closed: bool) -> tuple[str, str]:
    return ("e2e_ms", "ttft_ms") if closed else ("e2e_sched_ms", "ttft_sched_ms")


def _percentile(name: str, share: float, side: Side, weights: Weights) -> float | None:
    return side.latencies[name].percentile(share, weights)


def _cost(key: str, side: Side, weights: Weights) -> float | None:
    goodput = side.per_s(side.kept, weights)
    if goodput is None or side.price_per_hour is None:
        return None
    found: float | None = getattr(cost(side.price_per_hour, "", goodput, side.per_s(side.kept_tokens, weights)), key)
    return found


def _dot(weights: Weights, counts: Sequence[int]) -> int:
    found: int = sum(map(mul, weights, counts))
    return found


def _ratio(above: float, below: float) -> float | None:
    return above / below if below else None


def _one(found: set[float | None]) -> float | None:
    return found.pop() if len(found) == 1 else None


def _forced(unlike: Sequence[str]) -> str:
    return "forced, unlike in " + ", ".join(each.split(":")[0] for each in unlike)


def _figure(value: float | None, *, signed: bool = False) -> str | None:
    return None if value is None else f"{value:{'+' if signed else ''}.4g}"
