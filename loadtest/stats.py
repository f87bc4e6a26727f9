"""What the records of a run add up to: latencies, throughput, goodput, errors. Standard library only.

Pure functions of records; they know nothing of Locust, servers or files. loadtest/README.md tells how other tools name
the same metrics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean

from loadtest.percentiles import Percentile, interpolated, mean_interval, per_window, percentile
from loadtest.records import Record

SHARES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
BATCH_S = 5.0
"""Throughput's interval comes from the means of windows this long."""

LATENCIES: dict[str, Callable[[Record], float | None]] = {
    "e2e_ms": lambda record: record.e2e_ms,
    "e2e_sched_ms": lambda record: record.e2e_sched_ms,
    "ttfb_ms": lambda record: record.ttfb_ms,
    "ttft_ms": lambda record: record.ttft_ms,
    "ttft_sched_ms": lambda record: record.ttft_sched_ms,
    "tpot_ms": lambda record: record.tpot_ms,
}
"""Metrics that have one value a request; None where a request has none."""
SCHEDULED = ("e2e_sched_ms", "ttft_sched_ms")


@dataclass(frozen=True)
class Distribution:
    """Values of one metric, in its unit. itl_ms: all gaps of all requests together, so that long answers weigh more."""

    n: int
    mean: float
    max: float
    percentiles: dict[str, Percentile]


@dataclass(frozen=True)
class Summary:
    """What was measured. Latencies are those of answers that were good; failures count in error_rate and goodput."""

    requests: int
    failed: int
    error_rate: float
    errors: dict[str, int]
    """How many of each kind; records.ERRORS says what they mean."""
    samples: dict[str, str]
    """A failure of each kind in words."""
    seconds: float
    offered_per_s: float | None
    """None in a closed loop."""
    achieved_per_s: float
    """Sent within the measured time."""
    answered_per_s: float
    """Good answers that came within the measured time."""
    answered_interval: tuple[float, float] | None
    """95 %, from 5-second means."""
    items_per_s: float
    tokens_out_per_s: float | None
    """Of good answers within the measured time; None where answers have no tokens."""
    tokens_in: int | None
    tokens_out: int | None
    tokens_source: str | None
    goodput_per_s: float
    """Answers a second within every limit of the SLO, by intended time."""
    good_share: float
    latencies: dict[str, Distribution]
    in_flight_mean: float
    in_flight_peak: int


@dataclass(frozen=True)
class Generator:
    """Whether the generator did what it claims. lag_ms: of requests that found a free user."""

    lag_p50_ms: float
    lag_p99_ms: float
    lag_max_ms: float
    waited: int
    """Requests that were late because all users waited for answers."""
    workers: int
    cpu_share: float | None
    """Of one core, of the busiest worker, while it measured."""
    lost: int = 0
    """Requests of the timetable that no worker wrote down: one of them died."""


def measured(records: Iterable[Record]) -> list[Record]:
    """The records that figures are made of."""
    return [record for record in records if record.phase == "measure"]


def summarise(
    records: Sequence[Record], start_s: float, seconds: float, limits: Mapping[str, float], *, closed: bool
) -> Summary:
    """A run's records; the measured phase began at start_s. Throughput and requests in flight are of its seconds, so
    what the warm-up left to be answered counts there; all else is of the measured phase's own requests.

    limits: for each metric of LATENCIES or itl_ms the milliseconds that an answer may take to be good.
    closed: the records have no timetable; their intended times mean nothing.
    """
    end_s = start_s + seconds
    warm = [record for record in records if record.phase != "cold"]
    in_time = [record for record in warm if record.error is None and start_s <= record.ended_s < end_s]
    spans = [(record.sent_s, record.ended_s) for record in warm if record.ended_s > start_s and record.sent_s < end_s]
    records = measured(records)
    good = [record for record in records if record.error is None]
    kept = sum(is_good(record, limits) for record in good)
    failures = Counter(record.error for record in records if record.error)
    with_tokens = [record for record in good if record.tokens_out is not None]
    windows = per_window([record.ended_s for record in in_time], start_s, end_s, BATCH_S)
    return Summary(
        requests=len(records),
        failed=len(records) - len(good),
        error_rate=(len(records) - len(good)) / len(records) if records else 0.0,
        errors={str(kind): count for kind, count in failures.most_common()},
        samples={r.error: r.detail or "" for r in reversed(records) if r.error},
        seconds=seconds,
        offered_per_s=None if closed else len(records) / seconds,
        achieved_per_s=sum(record.sent_s < end_s for record in records) / seconds,
        answered_per_s=len(in_time) / seconds,
        answered_interval=mean_interval(windows),
        items_per_s=sum(record.items for record in in_time) / seconds,
        tokens_out_per_s=sum(record.tokens_out or 0 for record in in_time) / seconds if with_tokens else None,
        tokens_in=_total(record.tokens_in for record in good),
        tokens_out=_total(record.tokens_out for record in good),
        tokens_source=min((str(record.tokens_source) for record in with_tokens), default=None),
        goodput_per_s=kept / seconds,
        good_share=kept / len(records) if records else 0.0,
        latencies=latencies(good, closed=closed),
        in_flight_mean=in_flight_mean(spans, start_s, end_s),
        in_flight_peak=in_flight_peak(spans),
    )


def latencies(good: Sequence[Record], *, closed: bool) -> dict[str, Distribution]:
    """The distribution of each metric that any of these records has."""
    found = {
        name: [value for record in good if (value := metric(record)) is not None]
        for name, metric in LATENCIES.items()
        if not (closed and name in SCHEDULED)
    }
    found["itl_ms"] = [gap for record in good for gap in record.gaps_ms]
    return {name: distribution(values) for name, values in found.items() if values}


def distribution(values: Iterable[float]) -> Distribution:
    """Of at least one value."""
    ordered = sorted(values)
    found = {name: percentile(ordered, share) for name, share in SHARES.items()}
    return Distribution(len(ordered), fmean(ordered), ordered[-1], found)


def is_good(record: Record, limits: Mapping[str, float]) -> bool:
    """Whether an answer came whole and within every limit. A metric that it has no value for does not count against
    it; of itl_ms, every gap does."""
    if record.error is not None:
        return False
    for name, limit in limits.items():
        value = max(record.gaps_ms, default=None) if name == "itl_ms" else LATENCIES[name](record)
        if value is not None and value > limit:
            return False
    return True


def generator(
    records: Sequence[Record], workers: int, cpu_share: float | None, planned: int | None = None
) -> Generator:
    """How late the measured phase's requests were sent. planned: how many it should have; None in a closed loop."""
    lags = sorted(record.lag_ms for record in records if not record.waited) or [0.0]
    return Generator(
        # A matter of this run alone, not a claim about others: few values will do.
        lag_p50_ms=interpolated(lags, 0.5),
        lag_p99_ms=interpolated(lags, 0.99),
        lag_max_ms=lags[-1],
        waited=sum(record.waited for record in records),
        workers=workers,
        cpu_share=cpu_share,
        lost=0 if planned is None else planned - len(records),
    )


def in_flight_peak(spans: Sequence[tuple[float, float]]) -> int:
    """Most requests at one time: a sweep over their beginnings and ends."""
    steps = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    return max(accumulate(step for _, step in steps), default=0)


def in_flight_mean(spans: Sequence[tuple[float, float]], start_s: float, end_s: float) -> float:
    """Requests in flight on average: by Little's law the rate × the mean time in the system."""
    busy = sum(max(0.0, min(end, end_s) - max(start, start_s)) for start, end in spans)
    return busy / (end_s - start_s)


def _total(values: Iterable[int | None]) -> int | None:
    found = [value for value in values if value is not None]
    return sum(found) if found else None
