"""The command line's words over the YAML's."""

from __future__ import annotations

import pytest

from loadtest.options import overridden, slo_of
from model_configs.errors import KitError
from model_configs.loadtest import LoadTest, Slo

YAML = LoadTest.model_validate(
    {"payloads": "digits", "rate": 5, "arrivals": "ramp", "end_rate": 9, "slo": {"e2e_sched_ms": {"p95": 100}}}
)


def test_options_win_and_what_is_not_given_stays() -> None:
    found = overridden(YAML, {"rate": 7.0, "duration_s": None})
    assert (found.rate, found.end_rate, found.duration_s, found.payloads) == (7.0, 9, 60.0, "digits")


def test_other_arrivals_leave_behind_what_belongs_to_the_yaml_s() -> None:
    assert overridden(YAML, {"arrivals": "poisson"}).end_rate is None


def test_an_slo_of_the_command_line_replaces_the_yaml_s() -> None:
    found = overridden(YAML, {"slo": slo_of(["ttft_sched_ms.p95=250", "error_rate=0.01", "strict=true"])})
    assert found.slo == Slo.model_validate({"ttft_sched_ms": {"p95": 250}, "error_rate": 0.01, "strict": True})
    assert slo_of([]) is None


@pytest.mark.parametrize("pair", ["e2e_ms", "e2e_ms.p95", "e2e_ms.p95=fast", "e2e_ms=5", "e2e.p95=5", "e2e_ms.p94=5"])
def test_an_slo_that_is_none_is_shown_with_one_that_is(pair: str) -> None:
    with pytest.raises(KitError, match="--slo") as error:
        slo_of([pair])
    assert "p95" in error.value.hint


def test_values_that_cannot_be_are_named() -> None:
    with pytest.raises(KitError, match="rate"):
        overridden(YAML, {"rate": -1.0})
    with pytest.raises(KitError, match="payloads"):
        overridden(None, {"rate": 1.0})
    with pytest.raises(KitError, match="closed loop"):
        overridden(YAML, {"arrivals": "closed"})
