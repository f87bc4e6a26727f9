"""Timetables: as many requests as promised, inside their time, the same for a seed, and of the kind that they claim."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import arrivals

RATES = st.floats(0.01, 60)
DURATIONS = st.floats(0.01, 30)
SEEDS = st.integers(0, 1 << 40)
BURSTS = st.floats(0.01, 100)
WORKERS = st.integers(1, 12)
TRACES = st.lists(st.floats(0, 1e4), min_size=2, max_size=40)


def in_order_and_inside(times: list[float], duration_s: float) -> bool:
    return times == sorted(times) and all(0 <= time < duration_s for time in times)


def gaps(times: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(times)]


def variation(values: list[float]) -> float:
    return statistics.stdev(values) / statistics.mean(values)


def dispersion(times: list[float], duration_s: float, window_s: float) -> float:
    """Variance over mean of the counts in windows: 1 for a Poisson process, 0 for equal distances."""
    counts = [0] * round(duration_s / window_s)
    for time in times:
        counts[int(time / window_s)] += 1
    return statistics.pvariance(counts) / statistics.mean(counts)


@given(rate=RATES, duration_s=DURATIONS, seed=SEEDS, burstiness=BURSTS)
def test_every_timetable_has_its_number_of_requests_in_order_inside_its_time(
    rate: float, duration_s: float, seed: int, burstiness: float
) -> None:
    for times in (
        arrivals.constant(rate, duration_s),
        arrivals.poisson(rate, duration_s, seed),
        arrivals.gamma(rate, duration_s, seed, burstiness),
    ):
        assert len(times) == round(rate * duration_s)
        assert in_order_and_inside(times, duration_s)


@given(rate=RATES, end_rate=RATES, duration_s=DURATIONS, seed=SEEDS)
def test_a_ramp_has_its_mean_rates_number_of_requests_inside_its_time(
    rate: float, end_rate: float, duration_s: float, seed: int
) -> None:
    times = arrivals.ramp(rate, end_rate, duration_s, seed)
    assert len(times) == round((rate + end_rate) / 2 * duration_s)
    assert in_order_and_inside(times, duration_s)


@pytest.mark.parametrize("burstiness", [0.001, 0.01, 0.1])
def test_the_largest_bursts_stay_inside_too(burstiness: float) -> None:
    """Gaps of such shapes are often less than a float's precision, or 0."""
    for seed in range(200):
        times = arrivals.gamma(10, 1.0, seed, burstiness)
        assert len(times) == 10
        assert in_order_and_inside(times, 1.0)


@given(seed=SEEDS)
def test_a_seed_is_a_timetable_and_another_seed_another(seed: int) -> None:
    kinds: list[Callable[[int], list[float]]] = [
        lambda seed: arrivals.poisson(20, 2.0, seed),
        lambda seed: arrivals.gamma(20, 2.0, seed, 0.5),
        lambda seed: arrivals.ramp(10, 30, 2.0, seed),
    ]
    for kind in kinds:
        assert kind(seed) == kind(seed)
        assert kind(seed) != kind(seed + 1)


@given(rate=RATES, duration_s=DURATIONS, workers=WORKERS, seed=SEEDS)
def test_the_workers_shares_are_the_whole_and_nobody_sends_twice(
    rate: float, duration_s: float, workers: int, seed: int
) -> None:
    times = arrivals.poisson(rate, duration_s, seed)
    shares = [arrivals.share(times, worker, workers) for worker in range(workers)]
    assert sorted(each for share in shares for each in share) == list(enumerate(times))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(rate=st.integers(1, 50), before_s=st.integers(1, 20), duration_s=st.integers(1, 20))
def test_constant_arrivals_keep_their_distance_across_the_end_of_the_warm_up(
    rate: int, before_s: int, duration_s: int
) -> None:
    after = [before_s + time for time in arrivals.constant(rate, duration_s)]
    assert gaps([*arrivals.constant(rate, before_s), *after]) == pytest.approx(
        [1 / rate] * (rate * (before_s + duration_s) - 1)
    )


def test_poisson_arrivals_are_as_dispersed_as_poisson_counts() -> None:
    for seed in range(3):
        times = arrivals.poisson(100, 400.0, seed)
        # 4000 windows of 10 requests each: the index's standard deviation is √(2 / 4000) = 0.022.
        assert dispersion(times, 400.0, 0.1) == pytest.approx(1.0, abs=0.1)
        assert variation(gaps(times)) == pytest.approx(1.0, abs=0.03)
    assert dispersion(arrivals.constant(100, 400.0), 400.0, 0.1) < 0.02


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0, 100.0])
def test_gamma_arrivals_vary_as_their_burstiness_says(burstiness: float) -> None:
    found = variation(gaps(arrivals.gamma(100, 400.0, 7, burstiness)))
    assert found == pytest.approx(1 / math.sqrt(burstiness), rel=0.05)


@pytest.mark.parametrize(("rate", "end_rate"), [(0.001, 200), (200, 0.001), (50, 150), (100, 100)])
def test_a_ramps_requests_lie_as_its_rate_says(rate: float, end_rate: float) -> None:
    """The share of requests before a time is the area under the rate up to it (Kolmogorov's distance)."""
    duration_s = 100.0
    times = arrivals.ramp(rate, end_rate, duration_s, 5)
    total = (rate + end_rate) / 2 * duration_s
    expected = [(rate * time + (end_rate - rate) / duration_s * time**2 / 2) / total for time in times]
    distance = max(abs(share - place / len(times)) for place, share in enumerate(expected))
    assert distance < 1.63 / math.sqrt(len(times))  # 1 % of true samples are farther


@given(times=TRACES, duration_s=st.floats(0.1, 1e5))
def test_a_replay_keeps_a_traces_distances_from_its_first_request_on(times: list[float], duration_s: float) -> None:
    found = arrivals.replay(times, duration_s)
    first = min(times)
    assert found == [time - first for time in sorted(times) if time - first < duration_s]


def test_a_replay_at_a_rate_keeps_the_shape_and_changes_the_pace() -> None:
    assert arrivals.replay([10, 12, 11, 14], 1e9, rate=1.5) == pytest.approx([0, 0.5, 1.0, 2.0])
    assert arrivals.replay([5, 5, 5], 1.0, rate=7.0) == [0, 0, 0]


def test_a_trace_is_a_number_a_line_or_timestamps(tmp_path: Path) -> None:
    file = tmp_path / "trace"
    file.write_text('0.5\n\n2\n{"timestamp": 1.25, "tokens": 3}\n')
    assert arrivals.read_trace(file) == [0.5, 2.0, 1.25]


@given(times=st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=10))
def test_a_trace_comes_back_as_it_was_written(times: list[float], tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("trace") / "trace.jsonl"
    file.write_text("\n".join(json.dumps({"timestamp": time}) for time in times))
    assert arrivals.read_trace(file) == times


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\nsoon\n", r"trace:2: 'soon' is neither seconds nor"),
        ('1\n2\n{"time": 3}\n', "trace:3: .* is neither seconds nor"),
        ("1\n[2]\n", "trace:2: .* is neither seconds nor"),
        ("1\nNaN\n", "trace:2: 'NaN' is no time"),
        ("1\n1e999\n", "trace:2: '1e999' is no time"),
        (f"1\n1{'0' * 400}\n", "trace:2: .* is neither seconds nor"),
        ("1\n", "at least 2 times"),
    ],
)
def test_a_trace_that_is_none_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "trace"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        arrivals.read_trace(file)
