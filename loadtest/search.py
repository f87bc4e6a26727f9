"""The search for the highest rate that holds: which rate to ask next, and when the answer is believed.

Pure: rates go out, outcomes come in; knows nothing of servers, runs or clocks.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal

MAX_PROBES = 24
LOWEST = 1 / 64
"""Of the start rate."""

Outcome = Literal["held", "broken", "generator"]
"""held: the SLO, by a valid run. broken: not, and that is the server's doing. generator: no one knows, since the
generator itself was late."""
Ended = Literal["found", "generator", "nothing", "unsteady"]
"""found: between a rate that held and one that broke. generator: what lies above could not be measured. nothing: not
even the lowest rate held. unsteady: out of steps before an answer was confirmed."""


@dataclass(frozen=True)
class Probe:
    """A step to make. confirms: it decides on a rate that has held before."""

    rate: float
    confirms: bool = False


@dataclass(frozen=True)
class Found:
    """rate: the highest that held, by so many further steps too. broken: the lowest that did not; None if all did."""

    rate: float | None
    broken: float | None
    confirmations: int
    ended: Ended


def search(
    start_rate: float,
    tolerance: float = 0.05,
    confirmations: int = 2,
    max_probes: int = MAX_PROBES,
    lowest: float | None = None,
) -> Generator[Probe, Outcome, Found]:
    """Doubling (or halving) from start_rate, bisection by the geometric mean until held and broken are within
    tolerance of each other, one doubt, then confirmations, as MLPerf's FindPeakPerformance and its confirming runs.

    Near the edge chance decides a step, and a busy moment of the machine breaks one far below. So the lowest broken
    rate is asked once more before it is believed (if it holds now, the search goes on above it), and the highest held
    one as often as confirmations says (if one breaks, the next lower one is looked for). A rate is never asked after
    it has broken twice, or broken after holding. A generator's limit is an upper end like a broken rate: what the
    service holds may lie below it.

    lowest: below it nothing is asked; LOWEST × start_rate if not given.
    Takes 4 bisections for 5 %, so 7 steps and the doublings when nothing is taken back; never more than max_probes.
    """
    floor = LOWEST * start_rate if lowest is None else lowest
    held: list[float] = []
    above: dict[float, Outcome] = {}
    settled: set[float] = set()
    confirmed: Counter[float] = Counter()
    for _ in range(max_probes):
        probe = _next(start_rate, floor, tolerance, confirmations, held, above, settled, confirmed)
        if probe is None:
            return _found(held, above, confirmed, confirmations)
        outcome = yield probe
        rate, again = probe.rate, probe.rate in above or probe.rate in held
        if outcome != "held":
            held = [each for each in held if each != rate]
            above[rate] = outcome
            settled |= {rate} if again else set()
        elif rate in held:
            confirmed[rate] += 1
        else:
            above.pop(rate, None)
            held.append(rate)
    return _found(held, above, confirmed, confirmations)


def most_probes(start_rate: float, highest: float, tolerance: float = 0.05, confirmations: int = 2) -> int:
    """Steps to find that `highest` is the highest rate that holds, when no answer is taken back."""
    _, exponent = math.frexp(highest / start_rate)  # exact, where a logarithm may round over a power of 2
    doublings = exponent + 1 if highest >= start_rate else 2 - exponent
    bisections = max(0, math.ceil(math.log2(math.log(2) / math.log1p(tolerance))))
    return doublings + bisections + 1 + confirmations


def _next(
    start_rate: float,
    floor: float,
    tolerance: float,
    confirmations: int,
    held: Sequence[float],
    above: dict[float, Outcome],
    settled: set[float],
    confirmed: Counter[float],
) -> Probe | None:
    """What to ask with this known; None when all is."""
    if not above:
        return Probe(2 * max(held) if held else start_rate)
    broken = min(above)
    if not held:
        return Probe(broken / 2) if broken / 2 >= floor else None
    best = max(held)
    if broken > best * (1 + tolerance):
        return Probe(math.sqrt(best * broken))
    if broken not in settled:
        return Probe(broken)
    return Probe(best, confirms=True) if confirmed[best] < confirmations else None


def _found(held: Sequence[float], above: dict[float, Outcome], confirmed: Counter[float], confirmations: int) -> Found:
    broken = min(above, default=None)
    if not held:
        limited = broken is not None and above[broken] == "generator"
        return Found(None, broken, 0, "generator" if limited else "nothing")
    best = max(held)
    if broken is None or confirmed[best] < confirmations:
        return Found(best, broken, confirmed[best], "unsteady")
    return Found(best, broken, confirmed[best], "generator" if above[broken] == "generator" else "found")
