"""Percentiles that say how sure they are, and intervals for means. Standard library only; knows nothing of requests."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from statistics import NormalDist, fmean, stdev

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Percentile:
    """A percentile of n values. value: None when n is less than `needed`; upper: the bound that it is below with 95 %
    confidence, None when n is too small for one."""

    share: float
    n: int
    value: float | None
    upper: float | None
    needed: int


def interpolated(ordered: Sequence[float], share: float) -> float:
    """The percentile of ascending values, linear between the two nearest (numpy's default). ValueError if none."""
    if not ordered:
        raise ValueError("a percentile of nothing")
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def percentile(ordered: Sequence[float], share: float) -> Percentile:
    """A percentile of ascending values with its bound, or without a value when they are too few to speak of one."""
    n, needed = len(ordered), needed_for(share)
    if n < needed:
        return Percentile(share, n, None, None, needed)
    rank = upper_rank(n, share)
    return Percentile(share, n, interpolated(ordered, share), None if rank is None else ordered[rank - 1], needed)


def needed_for(share: float) -> int:
    """Fewest values that allow to speak of a percentile: that the largest of them is beyond it has to be as sure as the
    percentile itself, and at least 95 %: 59 for p95, 459 for p99 (MLPerf's early stopping with no value over)."""
    doubt = 1 - max(share, CONFIDENCE)
    # Rounded first: 1 - 0.95 is a little more than 0.05, and would ask for one value less.
    return math.ceil(round(math.log(doubt) / math.log(share), 9))


@lru_cache(maxsize=256)
def upper_rank(n: int, share: float) -> int | None:
    """The rank, from 1, of the smallest order statistic that is not below the percentile with 95 % confidence.

    The number of values below a percentile is binomial (David and Nagaraja, Order Statistics, 7.1). None if the
    largest value does not reach the confidence.
    """
    mass, rank = 0.0, n  # of having `rank` or more values below the percentile
    log_choose = 0.0
    while rank > 0:
        term = log_choose + rank * math.log(share) + (n - rank) * math.log1p(-share)
        mass += math.exp(term)
        if mass > 1 - CONFIDENCE:
            break
        log_choose += math.log(rank) - math.log(n - rank + 1)
        rank -= 1
    return rank + 1 if rank < n else None


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """A 95 % interval for the mean of independent values, by Student's t; None for fewer than 3."""
    if len(values) < 3:
        return None
    half = students_t(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def students_t(degrees: int) -> float:
    """The 97.5 % point of Student's t (Abramowitz and Stegun 26.7.5); within 2 % from 3 degrees of freedom on."""
    z = NormalDist().inv_cdf(0.975)
    powers = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / math.pow(degrees, power) for power, term in enumerate(powers, 1))


def per_window(times_s: Sequence[float], start_s: float, end_s: float, window_s: float) -> list[float]:
    """Events a second in each whole window between two times."""
    count = int((end_s - start_s) / window_s + 1e-9)
    edges = [start_s + place * window_s for place in range(count + 1)]
    ordered = sorted(times_s)
    places = [bisect_left(ordered, edge) for edge in edges]
    return [(after - before) / window_s for before, after in pairwise(places)]
