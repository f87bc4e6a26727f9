from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.halving import Round, affordable, halving, ranked, schedule


def played(
    count: int, score: Callable[[int, Round[int]], float], finalists: int = 3
) -> tuple[list[int], list[Round[int]]]:
    """Candidates are numbers, 0 the default."""
    plan = schedule(count, 4.0, finalists)
    going, made = halving(list(range(count)), plan, finalists), []
    this = next(going)
    while True:
        made.append(this)
        try:
            this = going.send({each: score(each, this) for each in this.candidates})
        except StopIteration as end:
            return end.value, made


def test_a_third_survives_and_is_measured_for_twice_as_long() -> None:
    plan = schedule(27, 4.0, 3)
    assert plan.rounds == ((27, 4.0), (9, 8.0))
    assert plan.cost_s(10.0, runs=2) == 27 * (10 + 2 * 4) + 9 * (10 + 2 * 8)
    assert schedule(2, 4.0, 3).rounds == ((2, 4.0),)


@given(count=st.integers(1, 60), finalists=st.integers(1, 5))
def test_the_best_reaches_the_end_when_nothing_scatters(count: int, finalists: int) -> None:
    found, rounds = played(count, lambda each, _: 100.0 * 1.1**each, finalists)
    assert len(found) <= finalists
    assert 0 in found
    if finalists > 1:
        assert found[0] == count - 1
    assert [len(each.candidates) for each in rounds] == [size for size, _ in schedule(count, 4.0, finalists).rounds]


@given(scores=st.lists(st.floats(0, 1000), min_size=2, max_size=40), finalists=st.integers(1, 4))
def test_the_default_is_in_every_round_and_in_the_end(scores: list[float], finalists: int) -> None:
    found, rounds = played(len(scores), lambda each, _: scores[each], finalists)
    assert 0 in found
    assert all(0 in each.candidates for each in rounds)
    assert len(found) == len(set(found)) <= finalists


def test_the_better_half_wins_under_noise() -> None:
    wins = 0
    for seed in range(40):
        chance = random.Random(seed)

        def noisy(each: int, this: Round[int], chance: random.Random = chance) -> float:
            return (100 + 4 * each) * chance.gauss(1, 0.2 / this.seconds**0.5)

        found, _ = played(24, noisy)
        wins += max(found) >= 18
    assert wins >= 36


def test_what_failed_never_goes_on_but_the_default_does() -> None:
    found, rounds = played(12, lambda each, _: 0.0 if each in (0, 11, 10) else float(each))
    assert set(found) == {9, 8, 0}
    assert not {10, 11} & set(rounds[1].candidates)


def test_within_noise_the_simpler_one_is_better() -> None:
    assert ranked({0: 98.5, 1: 100.0, 2: 120.0, 3: 119.0}, [0, 1, 2, 3], 0.03) == [2, 3, 0, 1]
    assert ranked({0: 90.0, 1: 100.0}, [0, 1], 0.03) == [1, 0]
    assert ranked({"default": 0.0, "other": 0.0}, ["default", "other"]) == ["default", "other"]


@given(st.dictionaries(st.integers(0, 30), st.floats(0, 100), min_size=1), st.floats(0, 0.2))
def test_a_ranking_has_everyone_once_and_nobody_far_above_the_one_before(
    scores: dict[int, float], noise: float
) -> None:
    found = ranked(scores, sorted(scores), noise)
    assert sorted(found) == sorted(scores)
    for place, each in enumerate(found):
        assert all(scores[later] * (1 - noise) <= scores[each] + 1e-9 for later in found[place:])


def test_who_joins_in_a_round_can_win() -> None:
    going = halving(list(range(9)), schedule(9, 4.0, 2), 2)
    this = next(going)
    following = going.send({**dict.fromkeys(this.candidates, 10.0), 99: 50.0})
    assert 99 in following.candidates
    with pytest.raises(StopIteration) as end:
        going.send({each: 50.0 if each == 99 else 1.0 for each in following.candidates})
    assert end.value.value == [99, 0]


def test_a_later_round_begins_with_the_best_so_that_time_runs_out_on_the_worst() -> None:
    _, rounds = played(27, lambda each, _: 10.0 * each)
    assert rounds[1].candidates[:3] == (26, 25, 24)
    assert 0 in rounds[1].candidates


def test_what_was_not_measured_in_time_is_left_out() -> None:
    going = halving(list(range(9)), schedule(9, 4.0, 3), 3)
    next(going)
    with pytest.raises(StopIteration) as end:
        going.send({0: 1.0, 4: 3.0})
    assert end.value.value == [4, 0]


@given(st.integers(4, 48), st.floats(1, 60), st.floats(0, 5000), st.integers(1, 2))
def test_the_time_that_there_is_decides_how_many_are_tried(
    most: int, start_s: float, budget_s: float, runs: int
) -> None:
    found = affordable(4, most, 4.0, 3, start_s, budget_s, runs)
    count = found.rounds[0][0]
    assert 4 <= count <= most
    assert count == 4 or found.cost_s(start_s, runs) <= budget_s
    if count < most:
        assert schedule(count + 1, 4.0, 3).cost_s(start_s, runs) > budget_s


def test_nobody_to_choose_from() -> None:
    with pytest.raises(ValueError, match="no candidate"):
        next(halving([], schedule(1, 4.0, 1), 1))
