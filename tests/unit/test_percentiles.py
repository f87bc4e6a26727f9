"""Percentiles and their bounds against numpy, scipy's distributions, brute force and simulation."""

from __future__ import annotations

import math
import random
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from loadtest.percentiles import (
    interpolated,
    mean_interval,
    needed_for,
    per_window,
    percentile,
    students_t,
    upper_rank,
)

VALUES = st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=60)
SHARES = st.floats(0.0, 1.0)
KNOWN_SHARES = (0.5, 0.9, 0.95, 0.99)


def at_least(rank: int, n: int, share: float) -> float:
    """The chance that `rank` or more of n values are below the percentile, by exact sums."""
    return math.fsum(math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(rank, n + 1))


@given(values=VALUES, share=SHARES)
def test_a_percentile_is_numpys_linear_one(values: list[float], share: float) -> None:
    ordered = sorted(values)
    assert interpolated(ordered, share) == pytest.approx(float(np.percentile(ordered, 100 * share)), rel=1e-9, abs=1e-5)


@given(values=VALUES)
def test_its_ends_are_the_least_and_the_largest_value(values: list[float]) -> None:
    assert interpolated(sorted(values), 0.0) == min(values)
    assert interpolated(sorted(values), 1.0) == max(values)


def test_a_percentile_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="of nothing"):
        interpolated([], 0.5)


@given(n=st.integers(0, 400), share=st.sampled_from(KNOWN_SHARES))
def test_the_bounds_rank_is_the_first_that_brute_force_finds(n: int, share: float) -> None:
    rank = upper_rank(n, share)
    if rank is None:
        assert at_least(n, n, share) > 0.05
    else:
        assert at_least(rank, n, share) <= 0.05 < at_least(rank - 1, n, share)


@pytest.mark.parametrize("share", KNOWN_SHARES)
def test_the_bounds_rank_of_many_values_is_the_binomial_distributions(share: float) -> None:
    n = 100_000
    assert upper_rank(n, share) == int(scipy_stats.binom.ppf(0.95, n, share)) + 1


@pytest.mark.parametrize(("share", "n"), [(0.5, 30), (0.9, 100), (0.95, 59), (0.95, 400), (0.99, 500)])
def test_the_bound_is_above_the_true_percentile_in_95_of_100_samples(share: float, n: int) -> None:
    chooser = random.Random(n)
    true = -math.log(1 - share)
    rank = upper_rank(n, share)
    assert rank is not None
    samples = 1000
    kept = sum(sorted(chooser.expovariate(1.0) for _ in range(n))[rank - 1] >= true for _ in range(samples))
    # 3 standard deviations of a share of 0.95 among so many samples
    assert kept / samples >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / samples)


@pytest.mark.parametrize(("share", "needed"), [(0.5, 5), (0.9, 29), (0.95, 59), (0.99, 459), (0.999, 6905)])
def test_as_many_values_are_needed_as_mlperf_asks_for(share: float, needed: int) -> None:
    assert needed_for(share) == needed
    assert share**needed <= 1 - max(share, 0.95) + 1e-12 < share ** (needed - 1)


@pytest.mark.parametrize("share", KNOWN_SHARES)
def test_with_too_few_values_there_is_no_percentile(share: float) -> None:
    needed = needed_for(share)
    few = percentile([1.0] * (needed - 1), share)
    assert (few.value, few.upper, few.needed, few.n) == (None, None, needed, needed - 1)
    enough = percentile([1.0] * needed, share)
    assert (enough.value, enough.upper, enough.needed, enough.n) == (1.0, 1.0, needed, needed)


@given(values=st.lists(st.floats(0, 1e6), min_size=5, max_size=200))
def test_the_bound_is_a_value_not_below_the_percentile(values: list[float]) -> None:
    found = percentile(sorted(values), 0.5)
    assert found.value is not None
    assert found.upper in values
    # Interpolation may round up by the last bit.
    assert found.upper >= found.value or found.upper == pytest.approx(found.value)


def test_a_p99_of_3100_values_and_its_bound() -> None:
    found = percentile([float(place) for place in range(1, 3101)], 0.99)
    assert found.value == pytest.approx(3069.01)
    assert found.upper == scipy_stats.binom.ppf(0.95, 3100, 0.99) + 1


@pytest.mark.parametrize(
    ("degrees", "expected"), [(3, 3.182), (4, 2.776), (5, 2.571), (9, 2.262), (11, 2.201), (30, 2.042), (120, 1.980)]
)
def test_students_t_is_the_tables(degrees: int, expected: float) -> None:
    assert students_t(degrees) == pytest.approx(expected, rel=0.02 if degrees < 5 else 0.003)


def test_students_t_narrows_to_the_normal_distributions() -> None:
    found = [students_t(degrees) for degrees in range(2, 400)]
    assert found == sorted(found, reverse=True)
    assert students_t(10**6) == pytest.approx(1.959964, abs=1e-5)


def test_an_interval_for_a_mean_is_the_textbooks() -> None:
    low, high = mean_interval([4.0, 6.0, 5.0, 7.0, 3.0, 5.0]) or (0.0, 0.0)
    half = 2.571 * math.sqrt(2) / math.sqrt(6)
    assert (low, high) == pytest.approx((5 - half, 5 + half), rel=1e-3)
    assert mean_interval([1.0, 2.0]) is None


def test_an_interval_holds_the_true_mean_in_95_of_100_samples() -> None:
    chooser = random.Random(3)
    intervals = [mean_interval([chooser.gauss(10, 3) for _ in range(6)]) or (0.0, 0.0) for _ in range(2000)]
    assert statistics.fmean(low <= 10 <= high for low, high in intervals) == pytest.approx(0.95, abs=0.015)


@given(
    times=st.lists(st.floats(-5, 40), max_size=50), windows=st.integers(0, 6), window_s=st.sampled_from([0.5, 2.0, 5.0])
)
def test_windows_count_as_brute_force_does(times: list[float], windows: int, window_s: float) -> None:
    end_s = 3 + windows * window_s + 0.4 * window_s  # the rest is no whole window
    expected = [
        sum(3 + place * window_s <= time < 3 + (place + 1) * window_s for time in times) / window_s
        for place in range(windows)
    ]
    assert per_window(times, 3, end_s, window_s) == expected
