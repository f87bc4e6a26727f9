"""When requests are sent: timetables that are computed before the run, from a seed.

A timetable fixes every request's intended time, so that neither a slow server nor a slow generator can change the load
that a run claims (Schroeder et al., NSDI 2006, on open and closed loops). Each has exactly round(rate × duration)
requests: seeds do not have rates of their own. Knows nothing of requests, clocks or Locust.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path


def constant(rate: float, duration_s: float) -> list[float]:
    """One every 1 / rate seconds, the first after half of that: two timetables in a row keep the distance."""
    count = round(rate * duration_s)
    return [(place + 0.5) * duration_s / count for place in range(count)]


def poisson(rate: float, duration_s: float, seed: int) -> list[float]:
    """Independent clients, as many as rate × duration_s.

    Given their number, a Poisson process's times are independent and uniform (Kingman, Poisson Processes, 2.4).
    """
    chooser = random.Random(seed)
    return sorted(chooser.uniform(0, duration_s) for _ in range(round(rate * duration_s)))


def gamma(rate: float, duration_s: float, seed: int, burstiness: float) -> list[float]:
    """Gaps of a Gamma distribution with shape `burstiness`: 1 is Poisson, less comes in bursts, more is more even.

    The gaps are scaled to fill duration_s, as vLLM's benchmark does. Their coefficient of variation is 1 / √burstiness.
    """
    chooser = random.Random(seed)
    sums = list(accumulate(chooser.gammavariate(burstiness, 1.0) for _ in range(round(rate * duration_s) + 1)))
    # Shapes far below 1 have gaps that are lost in rounding, or all 0: the last request still is inside.
    total, last_s = sums[-1] or 1.0, math.nextafter(duration_s, 0.0)
    return [min(each * duration_s / total, last_s) for each in sums[:-1]]


def ramp(rate: float, end_rate: float, duration_s: float, seed: int) -> list[float]:
    """A Poisson process whose rate goes linearly from rate to end_rate.

    Each of (rate + end_rate) / 2 × duration_s requests is drawn from the density that the rate is.
    """
    chooser = random.Random(seed)
    slope = (end_rate - rate) / duration_s
    total = (rate + end_rate) / 2 * duration_s
    drawn = sorted(chooser.uniform(0, total) for _ in range(round(total)))
    # The root of rate·t + slope·t²/2 = drawn, in the form that does not divide by a slope of 0.
    return [2 * each / (rate + math.sqrt(max(0.0, rate * rate + 2 * slope * each))) if each else 0.0 for each in drawn]


def replay(times_s: Sequence[float], duration_s: float, rate: float | None = None) -> list[float]:
    """Recorded times, from the first on, up to duration_s; rate: at such a pace that this is their mean rate."""
    ordered = sorted(times_s)
    started = [each - ordered[0] for each in ordered]
    if rate is not None and started[-1] > 0:
        pace = (len(started) - 1) / started[-1] / rate
        started = [each * pace for each in started]
    return [each for each in started if each < duration_s]


def read_trace(file: Path) -> list[float]:
    """Seconds out of a file: a number a line, or JSON lines with "timestamp". Raises ValueError that names the line."""
    times = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
            times.append(float(found["timestamp"] if isinstance(found, dict) else found))
        except (ValueError, TypeError, KeyError, OverflowError):
            raise ValueError(
                f'{file}:{number}: {line[:60]!r} is neither seconds nor {{"timestamp": seconds}}'
            ) from None
        if not math.isfinite(times[-1]):
            raise ValueError(f"{file}:{number}: {line[:60]!r} is no time")
    if len(times) < 2:
        raise ValueError(f"{file}: a trace has at least 2 times")
    return times


def share(times_s: Sequence[float], worker: int, workers: int) -> list[tuple[int, float]]:
    """One of `workers` workers' requests, with their places in the whole: together they send exactly the whole."""
    return [(place, times_s[place]) for place in range(worker, len(times_s), workers)]
