"""Successive halving: measure many briefly, keep the best part, measure those for longer, until few are left.

Jamieson and Talwalkar, Non-stochastic best arm identification (AISTATS 2016): what is clearly bad is dropped after
little time, and the time goes to what is hard to tell apart. Pure: rounds go out, scores come in; knows nothing of
what is measured, of servers or clocks.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

KEEP = 3
"""One of this many survives a round."""
LONGER = 2
"""Each round measures for this many times as long as the one before: a server's start, which costs the same in every
round, would make more a waste."""
NOISE = 0.03
"""Scores that differ by less than this share are equal."""

T = TypeVar("T")


@dataclass(frozen=True)
class Round(Generic[T]):
    """What is to be measured, each for so many seconds. number: from 1."""

    number: int
    candidates: tuple[T, ...]
    seconds: float


@dataclass(frozen=True)
class Schedule:
    """How many candidates are measured for how long, round by round."""

    rounds: tuple[tuple[int, float], ...]

    def cost_s(self, start_s: float, runs: int = 1) -> float:
        """What it takes when a candidate is measured `runs` times in a round, and costs start_s besides."""
        return sum(count * (start_s + runs * seconds) for count, seconds in self.rounds)


def schedule(count: int, seconds: float, finalists: int) -> Schedule:
    """Rounds from `count` candidates at `seconds` each down to what leaves `finalists`; at least one."""
    rounds = [(count, seconds)]
    while (count := max(finalists, math.ceil(count / KEEP))) > finalists:
        rounds.append((count, seconds := seconds * LONGER))
    return Schedule(tuple(rounds))


def affordable(
    fewest: int, most: int, seconds: float, finalists: int, start_s: float, budget_s: float, runs: int = 1
) -> Schedule:
    """The schedule with the most candidates, from fewest to most, that budget_s pays for; fewest when none does."""
    for count in range(most, fewest, -1):
        found = schedule(count, seconds, finalists)
        if found.cost_s(start_s, runs) <= budget_s:
            return found
    return schedule(fewest, seconds, finalists)


def ranked(scores: Mapping[T, float], order: Sequence[T], noise: float = NOISE) -> list[T]:
    """Best first; of those within noise of the best that is left, the one that stands first in order comes next.

    scores: more is better, 0 for what failed. order: all of scores' keys, the simplest first.
    """
    left = [candidate for candidate in order if candidate in scores]
    found = []
    while left:
        best = max(scores[candidate] for candidate in left)
        chosen = next(candidate for candidate in left if scores[candidate] >= best * (1 - noise))
        left.remove(chosen)
        found.append(chosen)
    return found


def halving(
    candidates: Sequence[T], plan: Schedule, finalists: int, noise: float = NOISE
) -> Generator[Round[T], Mapping[T, float], list[T]]:
    """Yields rounds, takes each round's scores, returns the finalists, best first; the default, the first, among them.

    Scores may be fewer than the round's candidates, when time ran out, and may hold candidates that joined in it.
    The default is never dropped, whatever it scores; of others, what scored 0 is. Those that are left to the end are
    ranked by their longest measurement. Raises ValueError when there is no candidate.
    """
    if not candidates:
        raise ValueError("no candidate")
    default, *others = candidates
    left, order = [default, *others], list(candidates)
    for number, (_, seconds) in enumerate(plan.rounds, 1):
        # Best first: when time runs out, it is the worst that are left out.
        scores = yield Round(number, tuple(left), seconds)
        order += [candidate for candidate in scores if candidate not in order]
        keep = plan.rounds[number][0] if number < len(plan.rounds) else finalists
        best = ranked({each: score for each, score in scores.items() if score > 0}, order, noise)[:keep]
        left = best if default in best else [*best[: keep - 1], default]
    return left[:finalists] if default in left[:finalists] else [*left[: finalists - 1], default]
