"""Which charts show a run: its records cut into windows and handed to charts.py.

Knows nothing of files and pages. Windows hold few requests, so their percentiles are for the eye and have no bounds.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from loadtest import charts
from loadtest.charts import Band, Dot, Limit, Note, Part, Quantile, Series, Tone, amount
from loadtest.percentiles import interpolated
from loadtest.records import Record
from loadtest.run import ServerSide
from loadtest.stats import LATENCIES, SHARES, Distribution
from model_configs.loadtest import LoadTest, Slo

LINES: tuple[tuple[str, Tone], ...] = (("p50", "low"), ("p95", "middle"), ("p99", "high"))
MAX_WINDOWS = 60
LEAST_IN_WINDOW = 20
WINDOWS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)


class SweepPoint(Protocol):
    """One rate of a sweep, as sweep.Point has it."""

    @property
    def rate(self) -> float: ...
    @property
    def state(self) -> Literal["pass", "fail", "invalid"]: ...
    @property
    def run(self) -> str: ...
    @property
    def achieved_per_s(self) -> float: ...
    @property
    def goodput_per_s(self) -> float: ...
    @property
    def latency_ms(self) -> Mapping[str, float | None]: ...
    @property
    def confirms(self) -> bool: ...


@dataclass(frozen=True)
class Window:
    """A stretch of the run with the requests that were intended in it; in a closed loop, sent in it."""

    start_s: float
    end_s: float
    records: tuple[Record, ...]

    @property
    def middle_s(self) -> float:
        return (self.start_s + self.end_s) / 2

    def quantile(self, metric: str, share: float) -> float | None:
        """Of its good answers; None where there are none."""
        values = sorted(
            value
            for record in self.records
            if record.error is None and (value := LATENCIES[metric](record)) is not None
        )
        return interpolated(values, share) if values else None


def windows(records: Sequence[Record], load: LoadTest) -> list[Window]:
    """Warm-up and measured phase, each in equal windows; the cold request is in none."""
    closed = load.arrivals == "closed"
    timed = sorted(
        ((record.sent_s if closed else record.intended_s, record) for record in records if record.phase != "cold"),
        key=lambda pair: pair[0],
    )
    times = [at for at, _ in timed]
    total_s = load.warmup_s + load.duration_s
    wanted = max(total_s / MAX_WINDOWS, LEAST_IN_WINDOW * total_s / max(len(timed), 1))
    window_s = next((each for each in WINDOWS_S if each >= wanted), WINDOWS_S[-1])
    edges = [*_edges(0.0, load.warmup_s, window_s), *_edges(load.warmup_s, total_s, window_s)]
    return [
        Window(start, end, tuple(record for _, record in timed[bisect_left(times, start) : bisect_left(times, end)]))
        for start, end in edges
    ]


def latency_over_time(metric: str, found: Sequence[Window], load: LoadTest) -> str:
    """Percentiles of each window."""
    series = [
        Series(name, tone, [(each.middle_s, each.quantile(metric, SHARES[name])) for each in found])
        for name, tone in LINES
    ]
    return charts.lines(
        f"{metric} over time: p50, p95 and p99",
        series,
        x_label=_time_label(load),
        y_label="ms",
        end=load.warmup_s + load.duration_s,
        limits=_limits(metric, load.slo),
        bands=_bands(load),
        notes=[_note(each, _percentile_words(each, metric)) for each in found],
    )


def throughput_over_time(found: Sequence[Window], records: Sequence[Record], load: LoadTest) -> str:
    """Requests a second: what was offered, and what was answered well."""
    ended = sorted(record.ended_s for record in records if record.error is None)
    closed = load.arrivals == "closed"
    offered, answered, notes = [], [], []
    word = "sent" if closed else "offered"
    for each in found:
        width_s = each.end_s - each.start_s
        asked = len(each.records) / width_s
        came = (bisect_left(ended, each.end_s) - bisect_left(ended, each.start_s)) / width_s
        offered.append((each.middle_s, asked))
        answered.append((each.middle_s, came))
        notes.append(replace(_note(each, f"{word} {amount(asked)}/s, answered well {amount(came)}/s"), failures=0))
    return charts.lines(
        f"Requests a second over time, {word} and answered",
        [Series(word, "offered", offered, dashed=True), Series("answered well", "answered", answered)],
        x_label=_time_label(load),
        y_label="requests/s",
        end=load.warmup_s + load.duration_s,
        bands=_bands(load),
        notes=notes,
    )


def distribution(metric: str, measured: Sequence[Record], found: Distribution, slo: Slo, *, half: bool) -> str:
    """A metric's values of the good answers, with the percentiles that there are enough values for. half: of a page."""
    values = [value for record in measured if record.error is None for value in _values(metric, record)]
    named = [
        Quantile(name, each.share, each.value)
        for name in ("p50", "p95", "p99")
        if (each := found.percentiles[name]).value is not None
    ]
    limits = _limits(metric, slo)
    return charts.distribution(
        f"Distribution of {metric}",
        values,
        named,
        x_label="ms",
        limits=limits,
        width=charts.HALF_WIDTH if half else charts.WIDTH,
    )


def where_the_time_went(server: ServerSide) -> str:
    """One bar of the mean latency's four parts."""
    parts = [Part(label, tone, value) for label, tone, value in time_parts(server)]
    return charts.stacked("Where the mean latency went", parts, "ms")


def time_parts(server: ServerSide) -> list[tuple[str, Tone, float]]:
    """Name, colour and milliseconds of the four parts, in the order in which a request meets them."""
    return [
        ("client queue", "client", server.client_queue_ms),
        ("network + frontend", "network", server.network_ms),
        ("TorchServe queue", "queue", server.queue_ms),
        ("handler", "handler", server.handler_ms),
    ]


def latency_against_throughput(points: Sequence[SweepPoint], metric: str, load: LoadTest) -> str:
    """A sweep's points, and the highest rate that held."""
    best = highest_that_holds(points)
    name, _, percentile = metric.partition(".")
    dots = [
        Dot(point.achieved_per_s, value, point.state, f"{_point_words(point)}: {metric} {amount(value)} ms")
        for point in points
        if (value := point.latency_ms.get(metric)) is not None
    ]
    return charts.scatter(
        f"{metric} against throughput",
        dots,
        x_label="requests sent a second",
        y_label=f"{percentile}, ms",
        knee=Limit(f"holds {amount(best.rate)}/s", best.achieved_per_s) if best else None,
        limits=[limit for limit in _limits(name, load.slo) if percentile in limit.label.split()],
    )


def highest_that_holds(points: Sequence[SweepPoint]) -> SweepPoint | None:
    """The point of the highest rate below which none failed."""
    failed = min((point.rate for point in points if point.state == "fail"), default=float("inf"))
    held = [point for point in points if point.state == "pass" and point.rate < failed]
    return max(held, key=lambda point: point.rate, default=None)


def swept_metric(points: Sequence[SweepPoint], slo: Slo) -> str | None:
    """The latency to draw a sweep by: the SLO's first that any point has a value of, else any."""
    wanted = [f"{metric}.{percentile}" for metric, percentile, _ in slo.limits()]
    had = [name for point in points for name, value in point.latency_ms.items() if value is not None]
    return next((name for name in [*wanted, *had] if name in had), None)


def _edges(start_s: float, end_s: float, window_s: float) -> Iterator[tuple[float, float]]:
    count = max(1, round((end_s - start_s) / window_s)) if end_s > start_s else 0
    for place in range(count):
        width_s = (end_s - start_s) / count
        yield start_s + place * width_s, start_s + (place + 1) * width_s


def _values(metric: str, record: Record) -> tuple[float, ...]:
    if metric == "itl_ms":
        return record.gaps_ms
    value = LATENCIES[metric](record)
    return () if value is None else (value,)


def _limits(metric: str, slo: Slo) -> list[Limit]:
    return [Limit(f"SLO {name} {value:g} ms", value) for found, name, value in slo.limits() if found == metric]


def _bands(load: LoadTest) -> list[Band]:
    return [Band("warm-up", 0.0, load.warmup_s)] if load.warmup_s else []


def _time_label(load: LoadTest) -> str:
    return "s, when requests were sent" if load.arrivals == "closed" else "s, when requests were intended"


def _note(window: Window, words: str) -> Note:
    kinds = Counter(record.error for record in window.records if record.error)
    failed = "".join(f", {count} {kind}" for kind, count in kinds.most_common())
    when = f"{amount(window.start_s)}–{amount(window.end_s)} s"
    return Note(window.start_s, window.end_s, f"{when}, {len(window.records)} requests{failed}\n{words}", kinds.total())


def _percentile_words(window: Window, metric: str) -> str:
    found = ((name, window.quantile(metric, SHARES[name])) for name, _ in LINES)
    return ", ".join(f"{name} {amount(value)} ms" for name, value in found if value is not None) or "no good answer"


def _point_words(point: SweepPoint) -> str:
    confirms = ", once more" if point.confirms else ""
    return f"{amount(point.rate)}/s offered, {amount(point.goodput_per_s)}/s good, {point.state}{confirms}"
