from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.cost import cost, good_tokens_per_s
from loadtest.records import Record
from model_configs.errors import KitError

amounts = st.floats(min_value=1e-3, max_value=1e6)


def answer(tokens_out: int | None, e2e_ms: float = 100.0, error: str | None = None) -> Record:
    return Record(0, 0, "measure", "a", 0.0, 0.0, e2e_ms, tokens_out=tokens_out, error=error)


def test_the_inferentia_articles_price_comes_out() -> None:
    """inf2.48xlarge at $5.15 an hour and 130 tokens/s: the article reports $0.011 per 1000 tokens."""
    found = cost(5.15, "inf2.48xlarge, 3 years reserved", goodput_per_s=1.0, tokens_out_per_s=130.0)
    assert found.per_1k_tokens is not None
    assert float(f"{found.per_1k_tokens:.3g}") == 0.011
    assert found.per_1m_tokens == pytest.approx(11.0, rel=1e-3)
    assert (found.price_per_hour, found.basis, found.at) == (5.15, "inf2.48xlarge, 3 years reserved", "goodput")


def test_a_thousand_requests_at_one_a_second_cost_a_thousand_seconds() -> None:
    assert cost(3.6, "x", 1.0, None, "1 request/s").per_1k_requests == pytest.approx(1.0)


def test_models_without_tokens_have_no_price_per_token() -> None:
    found = cost(1.0, "x", 10.0, None)
    assert (found.per_1k_tokens, found.per_1m_tokens) == (None, None)


def test_no_goodput_has_no_price() -> None:
    found = cost(1.0, "x", 0.0, 0.0)
    assert (found.per_1k_requests, found.per_1k_tokens, found.per_1m_tokens) == (None, None, None)


@given(amounts, amounts, st.floats(min_value=1.1, max_value=100))
def test_more_goodput_is_cheaper_in_proportion(price: float, goodput: float, factor: float) -> None:
    slow, fast = cost(price, "x", goodput, goodput), cost(price, "x", goodput * factor, goodput * factor)
    assert slow.per_1k_requests == pytest.approx((fast.per_1k_requests or 0) * factor)
    assert slow.per_1m_tokens == pytest.approx(1e3 * (slow.per_1k_tokens or 0))
    assert (slow.per_1k_requests or 0) * goodput * 3.6 == pytest.approx(price)  # an hour's answers cost an hour


@pytest.mark.parametrize("price", [0.0, -1.0, math.nan, math.inf])
def test_a_price_that_is_none_is_the_users_mistake(price: float) -> None:
    with pytest.raises(KitError, match="dollars an hour"):
        cost(price, "x", 1.0, 1.0)


@pytest.mark.parametrize(
    ("goodput", "tokens", "name"), [(-1.0, None, "goodput_per_s"), (math.nan, None, "goodput"), (1.0, -2.0, "tokens")]
)
def test_a_rate_that_is_none_is_named(goodput: float, tokens: float | None, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        cost(1.0, "x", goodput, tokens)


def test_only_tokens_of_good_answers_count() -> None:
    records = [answer(10), answer(20, e2e_ms=900.0), answer(40, error="stream_cut"), answer(None)]
    assert good_tokens_per_s(records, {"e2e_ms": 500.0}, 2.0) == 5.0
    assert good_tokens_per_s(records, {}, 2.0) == 15.0
    assert good_tokens_per_s([answer(None)], {}, 2.0) is None
