"""Which texts share a forward pass, and how many requests fit the time there is. Pure functions, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PassLimits:
    """Of one forward pass. padding: share of its token slots, at most."""

    texts: int
    tokens: int
    padding: float


def plan_groups(
    lengths: Sequence[int], max_batch: int, max_padding: float, max_tokens: int | None = None
) -> list[list[int]]:
    """Split texts into forward passes.

    lengths: tokens of each text, ≥ 1. Returns groups of indices into lengths, longest text first; every index
    stands in exactly one group, a group has at most max_batch members, at most max_tokens tokens unless it is a single
    text, and pads at most max_padding of its token slots (rows × longest row). Equal lengths keep their order, so the
    same batch gives the same groups.
    """
    groups: list[list[int]] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        group = groups[-1] if groups else None
        if group is not None and len(group) < max_batch and (max_tokens is None or tokens + length <= max_tokens):
            slots = lengths[group[0]] * (len(group) + 1)
            if slots - (tokens + length) <= max_padding * slots:
                group.append(index)
                tokens += length
                continue
        groups.append([index])
        tokens = length
    return groups


def cut(count: int, sizes: Sequence[int]) -> list[int]:
    """count as a sum of sizes, largest first: 13 by (1, 8) is [8, 1, 1, 1, 1, 1]. sizes ascend from 1."""
    parts = []
    for size in reversed(sizes):
        parts += [size] * (count // size)
        count %= size
    return parts


def padding_waste(tokens: int, slots: int) -> float:
    """Share of the token slots that were computed and hold no token."""
    return 1.0 - tokens / slots if slots else 0.0


def count_admitted(costs: Sequence[float], budget: float) -> int:
    """How many requests, in order of arrival, fit budget together; the first one always does."""
    total = 0.0
    for count, cost in enumerate(costs):
        total += cost
        if total > budget and count > 0:
            return count
    return len(costs)


def smallest_at_least(buckets: Sequence[int], value: int) -> int:
    """The first of ascending buckets that is ≥ value. Raises ValueError when value is beyond the last."""
    for bucket in buckets:
        if bucket >= value:
            return bucket
    raise ValueError(f"{value} is beyond the last bucket, {buckets[-1]}")
