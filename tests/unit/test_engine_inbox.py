from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from servekit.engines.base import FixedInbox, Inbox, Prompt

PROMPTS = [Prompt(str(number), (number,), max_new_tokens=1) for number in range(20)]


@given(st.integers(0, 20), st.lists(st.integers(0, 7), max_size=12))
def test_prompts_are_taken_once_each_oldest_first(count: int, asked: list[int]) -> None:
    inbox: Inbox = FixedInbox(PROMPTS[:count])
    taken = [inbox.take(most) for most in asked]
    assert all(len(some) <= most for some, most in zip(taken, asked, strict=True))
    assert [prompt for some in taken for prompt in some] == PROMPTS[: min(count, sum(asked))]


def test_the_callers_own_list_stays_as_it_is() -> None:
    prompts = PROMPTS[:3]
    assert FixedInbox(prompts).take(2) == PROMPTS[:2]
    assert prompts == PROMPTS[:3]


def test_cancel_is_for_one_row_also_after_it_was_taken() -> None:
    inbox = FixedInbox(PROMPTS[:2])
    inbox.take(1)
    assert not inbox.cancelled("0")
    inbox.cancel("0")
    assert [inbox.cancelled(key) for key in ("0", "1")] == [True, False]
