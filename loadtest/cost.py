"""What answers cost at a measured goodput. Pure arithmetic; knows neither prices nor how goodput is measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from loadtest.records import Record
from loadtest.run import Cost
from loadtest.stats import is_good
from model_configs.errors import KitError

SECONDS_PER_HOUR = 3600


def cost(
    price_per_hour: float, basis: str, goodput_per_s: float, tokens_out_per_s: float | None, at: str = "goodput"
) -> Cost:
    """US dollars per 1000 requests, and per 1000 and 1 million output tokens; None where there are none of them.

    price_per_hour: of all machines that serve; basis: what that price is of, in words ("inf2.48xlarge, 3 years
    reserved"). goodput_per_s: answers within the SLO. tokens_out_per_s: output tokens of those answers, as
    good_tokens_per_s counts them; None for models without tokens. at: the operating point in words.
    Raises KitError for a price that is not above 0, ValueError for a rate that cannot be one.
    """
    if not (math.isfinite(price_per_hour) and price_per_hour > 0):
        raise KitError(f"a price of {price_per_hour:g} dollars an hour", "give what the machine costs, more than 0")
    for name, rate in (("goodput_per_s", goodput_per_s), ("tokens_out_per_s", tokens_out_per_s or 0.0)):
        if not (math.isfinite(rate) and rate >= 0):
            raise ValueError(f"{name} is {rate}")
    per_request, per_token = _each(price_per_hour, goodput_per_s), _each(price_per_hour, tokens_out_per_s)
    return Cost(
        price_per_hour=price_per_hour,
        basis=basis,
        per_1k_requests=None if per_request is None else 1e3 * per_request,
        per_1m_tokens=None if per_token is None else 1e6 * per_token,
        per_1k_tokens=None if per_token is None else 1e3 * per_token,
        at=at,
    )


def good_tokens_per_s(records: Iterable[Record], limits: Mapping[str, float], seconds: float) -> float | None:
    """Output tokens a second of the answers within every limit; None when no answer has tokens.

    The machine is paid for late answers too, but nobody is served by them.
    """
    found = [record for record in records if record.tokens_out is not None]
    return sum(record.tokens_out or 0 for record in found if is_good(record, limits)) / seconds if found else None


def _each(price_per_hour: float, per_s: float | None) -> float | None:
    """Dollars for one of what comes per_s times a second."""
    return price_per_hour / (per_s * SECONDS_PER_HOUR) if per_s else None
