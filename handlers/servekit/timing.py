"""Comparing what calls take: by turns, so that a machine's noise hits all alike. Knows nothing of what they compute."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

BURST = 2


def by_turns(calls: Mapping[str, Callable[[], object]], budget_s: float, at_least: int = 3) -> dict[str, list[float]]:
    """Milliseconds of each call, measured in turns until budget_s is over and each had at_least of them.

    A turn is one call that is not measured, which brings the weights into the caches as the request before does in a
    server, and BURST that are.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    end, turns = time.perf_counter() + budget_s, 0
    while turns < at_least or time.perf_counter() < end:
        turns += 1
        for name, call in calls.items():
            call()
            for _ in range(BURST):
                started = time.perf_counter()
                call()
                times[name].append(1e3 * (time.perf_counter() - started))
    return times
