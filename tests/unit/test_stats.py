"""What records add up to, against figures worked out by hand and by brute force."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import stats
from loadtest.records import Record
from loadtest.stats import Summary

SPANS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(1, 40)).map(lambda pair: (pair[0] / 4, (pair[0] + pair[1]) / 4)),
    max_size=25,
)


def record(seq: int, at_s: float, e2e_ms: float = 100.0, *, lag_s: float = 0.0, **values: Any) -> Record:
    return Record(
        **{"seq": seq, "worker": 0, "phase": "measure", "payload": "p", "intended_s": at_s,
           "sent_s": at_s + lag_s, "e2e_ms": e2e_ms, **values}
    )  # fmt: skip


def summarise(records: Sequence[Record], seconds: float = 10.0, closed: bool = False, **limits: float) -> Summary:
    return stats.summarise(records, 5.0, seconds, limits, closed=closed)


def stream(seq: int, at_s: float, ttft_ms: float, *gaps_ms: float, **values: Any) -> Record:
    """Tokens that come one a chunk, the last byte with the last of them."""
    return record(
        seq, at_s, ttft_ms + sum(gaps_ms),
        **{"ttft_ms": ttft_ms, "gaps_ms": gaps_ms, "tokens_out": 1 + len(gaps_ms), "tokens_source": "server", **values},
    )  # fmt: skip


def test_a_streams_metrics_are_the_ones_worked_out_by_hand() -> None:
    found = summarise([
        stream(0, 5.0, 200.0, 50.0, 100.0, 150.0, lag_s=0.5),
        stream(1, 6.0, 100.0, 40.0),
        stream(2, 7.0, 300.0),
    ]).latencies  # fmt: skip
    assert {name: (each.n, each.max) for name, each in found.items()} == {
        "e2e_ms": (3, 500.0),
        "e2e_sched_ms": (3, pytest.approx(1000.0)),
        "ttft_ms": (3, 300.0),
        "ttft_sched_ms": (3, pytest.approx(700.0)),
        "tpot_ms": (2, 100.0),  # of a single token there is none, and not 0
        "itl_ms": (4, 150.0),
    }
    assert found["ttft_ms"].mean == pytest.approx((200 + 100 + 300) / 3)
    assert found["tpot_ms"].mean == pytest.approx((100 + 40) / 2)  # every answer counts once
    assert found["itl_ms"].mean == pytest.approx((50 + 100 + 150 + 40) / 4)  # every gap counts once
    assert found["e2e_sched_ms"].mean == pytest.approx((1000 + 140 + 300) / 3)


def test_ten_requests_with_three_gaps_each_stay_ten_requests() -> None:
    """Locust's usual way fires an event for each metric: it would count 40 and mix gaps into the latencies."""
    found = summarise([stream(place, 5.0 + place, 700.0, 100.0, 100.0, 100.0) for place in range(10)], seconds=11.0)
    assert found.requests == 10
    assert found.latencies["e2e_ms"].n == 10
    assert found.latencies["e2e_ms"].mean == pytest.approx(1000.0)
    assert found.latencies["itl_ms"].n == 30


def test_percentiles_of_a_distribution_are_refused_below_what_they_need() -> None:
    found = stats.distribution([float(place) for place in range(100)])
    assert (found.n, found.mean, found.max) == (100, 49.5, 99.0)
    values = {name: each.value for name, each in found.percentiles.items()}
    assert values == {"p50": 49.5, "p90": pytest.approx(89.1), "p95": pytest.approx(94.05), "p99": None}
    assert found.percentiles["p99"].needed == 459


def test_rates_count_what_was_sent_and_answered_within_the_measured_time() -> None:
    found = summarise(
        [
            record(0, 5.0),
            record(1, 6.0, items=4),
            record(2, 14.0, 2000.0, items=8),  # answered after the end
            record(3, 14.5, lag_s=1.0),  # sent after the end
        ]
    )
    assert (found.requests, found.failed, found.error_rate) == (4, 0, 0.0)
    assert found.offered_per_s == 0.4
    assert found.achieved_per_s == pytest.approx(0.3)
    assert found.answered_per_s == pytest.approx(0.2)
    assert found.items_per_s == pytest.approx(0.5)
    assert found.latencies["e2e_ms"].n == 4  # those that were late are not left out


def test_throughput_counts_what_the_warm_up_left_to_be_answered_and_nothing_else_does() -> None:
    warm: dict[str, Any] = {"phase": "warmup", "ttft_ms": 1.0, "tokens_out": 8, "tokens_source": "server"}
    found = summarise(
        [
            record(0, 0.0, phase="cold"),
            record(1, 4.0, 900.0, **warm),  # answered before the measured phase
            record(2, 4.5, 2500.0, **warm, items=3),
            record(3, 4.8, 1000.0, **warm, error="timeout"),
            record(4, 6.0, 1000.0),
        ]
    )
    assert (found.requests, found.failed, found.errors) == (1, 0, {})
    assert (found.offered_per_s, found.achieved_per_s, found.goodput_per_s) == (0.1, 0.1, 0.1)
    assert set(found.latencies) == {"e2e_ms", "e2e_sched_ms"}
    assert found.answered_per_s == pytest.approx(0.2)
    assert found.items_per_s == pytest.approx(0.4)
    assert found.in_flight_mean == pytest.approx((2.0 + 0.8 + 1.0) / 10)
    assert found.in_flight_peak == 2


def test_requests_that_end_with_the_measured_time_are_not_inside() -> None:
    assert summarise([record(0, 5.0, 10_000.0)]).answered_per_s == 0.0
    assert summarise([record(0, 5.0, 9_999.0)]).answered_per_s == 0.1


def test_a_closed_loop_offers_nothing_and_has_no_scheduled_latencies() -> None:
    found = summarise([record(0, 5.0, lag_s=3.0, ttft_ms=1.0)], closed=True)
    assert found.offered_per_s is None
    assert set(found.latencies) == {"e2e_ms", "ttft_ms"}


def test_tokens_are_counted_of_good_answers_and_by_the_least_sure_source() -> None:
    found = summarise(
        [
            stream(0, 5.0, 10.0, 1.0, tokens_in=7),
            stream(1, 6.0, 10.0, 1.0, 1.0, tokens_source="chunks"),
            stream(2, 7.0, 10.0, 1.0, tokens_in=9, error="stream_cut", detail="gone"),
        ]
    )
    assert (found.tokens_in, found.tokens_out, found.tokens_out_per_s) == (7, 5, 0.5)
    assert found.tokens_source == "chunks"
    without = summarise([record(0, 5.0)])
    assert (without.tokens_in, without.tokens_out, without.tokens_out_per_s, without.tokens_source) == (None,) * 4


def test_failures_are_counted_by_kind_and_the_first_of_each_is_told() -> None:
    kinds = ["refused", "timeout", "refused", None, "refused"]
    details = ["queue full", None, "queue still full", None, None]
    records = [record(n, 5.0 + n, error=kind, detail=details[n]) for n, kind in enumerate(kinds)]
    found = summarise(records)
    assert (found.requests, found.failed, found.error_rate) == (5, 4, 0.8)
    assert list(found.errors.items()) == [("refused", 3), ("timeout", 1)]
    assert found.samples == {"refused": "queue full", "timeout": ""}
    assert found.latencies["e2e_ms"].n == 1  # a fast refusal makes no fast percentile


def test_goodput_counts_whole_answers_within_every_limit_from_their_intended_time() -> None:
    records = [
        stream(0, 5.0, 100.0, 50.0),
        stream(1, 6.0, 100.0, 50.0, lag_s=0.2),  # late for its client
        stream(2, 7.0, 100.0, 90.0),  # a long gap
        stream(3, 8.0, 100.0, 50.0, error="stream_cut"),
        stream(4, 9.0, 250.0),  # no gaps, so none too long
    ]
    found = summarise(records, ttft_sched_ms=280.0, itl_ms=60.0)
    assert found.goodput_per_s == pytest.approx(0.2)
    assert found.good_share == 0.4
    assert summarise(records).good_share == 0.8  # without limits, all that did not fail


@pytest.mark.parametrize("limit", [99.0, 100.0, 101.0])
@pytest.mark.parametrize("metric", ["e2e_ms", "e2e_sched_ms", "ttft_ms", "ttft_sched_ms", "tpot_ms", "itl_ms"])
def test_a_limit_is_the_largest_value_that_is_good(metric: str, limit: float) -> None:
    answer = record(0, 0.0, 100.0, ttft_ms=100.0, gaps_ms=(100.0, 100.0), tokens_out=3)
    assert stats.is_good(answer, {metric: limit}) is (limit >= 100.0)


def test_nothing_at_all_adds_up_to_nothing() -> None:
    found = summarise([])
    assert (found.requests, found.error_rate, found.good_share, found.in_flight_peak) == (0, 0.0, 0.0, 0)
    assert found.latencies == {}


def test_only_the_measured_phase_counts() -> None:
    phases = ["cold", "warmup", "measure", "measure"]
    assert [each.seq for each in stats.measured(record(n, 0.0, phase=phase) for n, phase in enumerate(phases))] == [
        2,
        3,
    ]


@given(spans=SPANS)
def test_the_most_in_flight_is_what_brute_force_counts(spans: list[tuple[float, float]]) -> None:
    expected = max((sum(start <= moment < end for start, end in spans) for moment, _ in spans), default=0)
    assert stats.in_flight_peak(spans) == expected


@given(spans=SPANS)
def test_the_mean_in_flight_is_what_brute_force_counts(spans: list[tuple[float, float]]) -> None:
    """All times are quarters of seconds, so that the middles of quarters see every one of them."""
    moments = [4 + (place + 0.5) / 4 for place in range(40)]
    expected = statistics.fmean(sum(start <= moment < end for start, end in spans) for moment in moments)
    assert stats.in_flight_mean(spans, 4.0, 14.0) == pytest.approx(expected)


@given(seed=st.integers(0, 1000), rate=st.floats(1, 50))
def test_littles_law_holds_when_every_request_begins_and_ends_inside(seed: int, rate: float) -> None:
    chooser = random.Random(seed)
    seconds = 40.0
    count = max(1, round(rate * seconds))
    records = [record(n, 5 + chooser.uniform(0, seconds - 1), chooser.uniform(1, 999)) for n in range(count)]
    found = summarise(records, seconds=seconds)
    assert found.offered_per_s is not None
    expected = found.offered_per_s * found.latencies["e2e_ms"].mean / 1e3
    assert found.in_flight_mean == pytest.approx(expected)


def test_throughputs_interval_is_that_of_five_second_means() -> None:
    records = [record(n, at_s) for n, at_s in enumerate([5, 6, 7, 11, 12, 15, 16, 17, 18])]
    low, high = summarise(records, seconds=15.0).answered_interval or (0.0, 0.0)
    assert (low + high) / 2 == pytest.approx(9 / 15)
    # 3, 2 and 4 answers: a standard deviation of 0.2 a second; t of 2 degrees is 4.30, of which the series has 4.24
    assert (high - low) / 2 == pytest.approx(4.30 * 0.2 / math.sqrt(3), rel=0.06)
    assert summarise(records, seconds=14.0).answered_interval is None


def test_a_generators_lag_leaves_out_requests_that_found_no_free_user() -> None:
    records = [record(n, 5.0, lag_s=n / 1e3) for n in range(500)] + [record(500, 5.0, lag_s=9.0, waited=True)]
    found = stats.generator(records, workers=2, cpu_share=0.3)
    assert found.lag_p50_ms == pytest.approx(249.5)
    assert found.lag_p99_ms == pytest.approx(494.01)
    assert found.lag_max_ms == pytest.approx(499.0)
    assert (found.waited, found.workers, found.cpu_share) == (1, 2, 0.3)


def test_requests_that_nobody_wrote_down_are_lost() -> None:
    records = [record(n, 5.0) for n in range(7)]
    assert stats.generator(records, workers=1, cpu_share=None, planned=9).lost == 2
    assert stats.generator(records, workers=1, cpu_share=None, planned=7).lost == 0
    assert stats.generator(records, workers=1, cpu_share=None).lost == 0


def test_the_generators_lag_is_told_of_few_requests_too() -> None:
    found = stats.generator([record(n, 5.0, lag_s=n / 1e3) for n in range(4)], workers=1, cpu_share=None)
    assert [found.lag_p50_ms, found.lag_p99_ms, found.lag_max_ms] == pytest.approx([1.5, 2.97, 3.0])
    nothing = stats.generator([], workers=1, cpu_share=None)
    assert (nothing.lag_p50_ms, nothing.lag_p99_ms, nothing.lag_max_ms, nothing.waited) == (0.0, 0.0, 0.0, 0)
