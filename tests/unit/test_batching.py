from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.batching import count_admitted, padding_waste, plan_groups, smallest_at_least

LENGTHS = st.lists(st.integers(1, 512), max_size=200)


@given(LENGTHS, st.integers(1, 64), st.floats(0.0, 0.9))
def test_every_text_stands_in_exactly_one_group(lengths: list[int], max_batch: int, max_padding: float) -> None:
    groups = plan_groups(lengths, max_batch, max_padding)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))


@given(LENGTHS, st.integers(1, 64), st.floats(0.0, 0.9))
def test_no_group_is_too_large_or_pads_too_much(lengths: list[int], max_batch: int, max_padding: float) -> None:
    for group in plan_groups(lengths, max_batch, max_padding):
        assert 1 <= len(group) <= max_batch
        longest = lengths[group[0]]
        assert longest == max(lengths[index] for index in group)
        waste = padding_waste(sum(lengths[index] for index in group), len(group) * longest)
        assert waste <= max_padding + 1e-9


@given(LENGTHS, st.integers(1, 64))
def test_groups_come_longest_first(lengths: list[int], max_batch: int) -> None:
    order = [lengths[index] for group in plan_groups(lengths, max_batch, 0.5) for index in group]
    assert order == sorted(lengths, reverse=True)


@given(LENGTHS, st.integers(1, 64), st.floats(0.0, 0.9), st.integers(1, 2048))
def test_no_group_has_more_tokens_than_it_may(
    lengths: list[int], max_batch: int, max_padding: float, max_tokens: int
) -> None:
    groups = plan_groups(lengths, max_batch, max_padding, max_tokens)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or sum(lengths[index] for index in group) <= max_tokens


@given(st.lists(st.just(7), min_size=1, max_size=50), st.integers(1, 8))
def test_equal_lengths_fill_whole_groups_in_order(lengths: list[int], max_batch: int) -> None:
    groups = plan_groups(lengths, max_batch, 0.0)
    assert [index for group in groups for index in group] == list(range(len(lengths)))
    assert all(len(group) == max_batch for group in groups[:-1])


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50), st.floats(0, 1000))
def test_what_is_admitted_fits_and_the_next_would_not(costs: list[float], budget: float) -> None:
    count = count_admitted(costs, budget)
    assert count >= 1
    assert count == 1 or sum(costs[:count]) <= budget + 1e-6
    assert count == len(costs) or sum(costs[: count + 1]) > budget - 1e-6


def test_nothing_asked_is_nothing_admitted() -> None:
    assert count_admitted([], 10.0) == 0
    assert plan_groups([], 8, 0.1) == []
    assert padding_waste(0, 0) == 0.0


def test_bucket_is_the_smallest_that_fits() -> None:
    assert [smallest_at_least([1, 8, 32], n) for n in (1, 2, 8, 9, 32)] == [1, 8, 8, 32, 32]
    with pytest.raises(ValueError, match="33 is beyond the last bucket, 32"):
        smallest_at_least([1, 8, 32], 33)
