"""PASS, FAIL or INVALID: every reason for each, and that nothing makes an invalid run green."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import stats, verdict
from loadtest.records import Record
from loadtest.stats import Generator, Summary
from loadtest.verdict import EXIT_CODES, Verdict, judge
from model_configs.loadtest import Percentiles, Slo

SLO = Slo(e2e_sched_ms=Percentiles(p95=200.0))
GOOD = Generator(lag_p50_ms=0.1, lag_p99_ms=2.0, lag_max_ms=3.0, waited=0, workers=1, cpu_share=0.3)


def summary(e2e_ms: list[float], errors: int = 0, closed: bool = False) -> Summary:
    """Requests that were all sent when they should be, 10 a second; the last ones failed."""
    count = len(e2e_ms) + errors
    records = [
        Record(
            seq=n, worker=0, phase="measure", payload="p", intended_s=n / 10, sent_s=n / 10,
            e2e_ms=[*e2e_ms, *[1.0] * errors][n], error="refused" if n >= len(e2e_ms) else None, detail="full",
        )
        for n in range(count)
    ]  # fmt: skip
    return stats.summarise(records, 0.0, count / 10 or 1.0, SLO.request_limits(), closed=closed)


def generator(**values: Any) -> Generator:
    return dataclasses.replace(GOOD, **values)


FAST = summary([100.0] * 100)
SLOW = summary([100.0] * 90 + [300.0] * 10)


def test_a_run_within_its_limits_passes() -> None:
    found = judge(FAST, GOOD, SLO)
    assert (found.state, found.exit_code, found.invalid) == ("pass", 0, ())
    assert [(each.metric, each.percentile, each.limit, each.value, each.holds) for each in found.checks] == [
        ("error_rate", None, 0.0, 0.0, True),
        ("e2e_sched_ms", "p95", 200.0, pytest.approx(100.0), True),
    ]


def test_a_broken_limit_fails() -> None:
    found = judge(SLOW, GOOD, SLO)
    assert (found.state, found.exit_code) == ("fail", 1)
    assert [each.holds for each in found.checks] == [True, False]


def test_every_limit_is_checked_and_one_broken_is_enough() -> None:
    slo = Slo(e2e_ms=Percentiles(p50=150.0, p90=90.0), e2e_sched_ms=Percentiles(p95=200.0))
    found = judge(FAST, GOOD, slo)
    assert [(each.metric, each.percentile, each.holds) for each in found.checks] == [
        ("error_rate", None, True), ("e2e_ms", "p50", True), ("e2e_ms", "p90", False), ("e2e_sched_ms", "p95", True),
    ]  # fmt: skip
    assert found.state == "fail"


def test_a_limit_is_held_by_a_value_that_is_just_as_large() -> None:
    slo = Slo(e2e_ms=Percentiles(p95=100.0))
    assert judge(FAST, GOOD, slo).state == "pass"
    assert judge(FAST, GOOD, Slo(e2e_ms=Percentiles(p95=99.999))).state == "fail"


@pytest.mark.parametrize(("allowed", "state"), [(0.0, "fail"), (0.04, "fail"), (0.05, "pass"), (1.0, "pass")])
def test_more_failures_than_allowed_fail(allowed: float, state: str) -> None:
    found = judge(summary([100.0] * 95, errors=5), GOOD, SLO.model_copy(update={"error_rate": allowed}))
    assert found.state == state


def test_a_server_that_answers_nothing_fails_and_is_no_invalid_run() -> None:
    """That there are too few good answers for a percentile is then no fault of the run."""
    found = judge(summary([], errors=100), GOOD, SLO)
    assert (found.state, found.invalid) == ("fail", ())
    assert [(each.metric, each.value, each.holds) for each in found.checks] == [
        ("error_rate", 1.0, False), ("e2e_sched_ms", None, False),
    ]  # fmt: skip


def test_strict_judges_the_bound_in_place_of_the_value() -> None:
    """3 of 100 values are over: p95 is below the limit, and its bound, the 99th value, is not."""
    found = summary([100.0] * 97 + [300.0] * 3)
    assert judge(found, GOOD, SLO).state == "pass"
    strict = judge(found, GOOD, SLO.model_copy(update={"strict": True}))
    assert strict.state == "fail"
    assert strict.checks[1].value == pytest.approx(100.0)
    assert strict.checks[1].upper == pytest.approx(300.0)
    assert judge(FAST, GOOD, SLO.model_copy(update={"strict": True})).state == "pass"


@pytest.mark.parametrize(
    ("made", "by", "slo", "reason"),
    [
        (FAST, generator(lag_p99_ms=10.5), SLO, r"sent late: p99 10\.5 ms, allowed 10"),
        (dataclasses.replace(FAST, achieved_per_s=9.7), GOOD, SLO, r"only 97\.0% of the requests were sent"),
        (dataclasses.replace(FAST, achieved_per_s=5.0), generator(waited=40), SLO, r"only 50\.0%.*40 waited for one"),
        (FAST, generator(cpu_share=0.91), SLO, r"used 91% of its core"),
        (FAST, generator(lost=3), SLO, r"3 requests of the timetable were never written down"),
        (summary([100.0] * 58), GOOD, SLO, r"e2e_sched_ms p95 of 58 values: 59 are needed"),
        (FAST, GOOD, Slo(e2e_ms=Percentiles(p99=200.0)), r"e2e_ms p99 of 100 values: 459 are needed"),
        (FAST, GOOD, Slo(ttft_ms=Percentiles(p50=9.0)), r"ttft_ms p50 of 0 values: 5 are needed"),
        (summary([]), GOOD, Slo(), r"no request was measured"),
    ],
    ids=["lag", "achieved", "users", "cpu", "lost", "few", "few for p99", "none of the metric", "no request"],
)
def test_a_run_that_proves_nothing_is_invalid(made: Summary, by: Generator, slo: Slo, reason: str) -> None:
    found = judge(made, by, slo)
    assert (found.state, found.exit_code) == ("invalid", 3)
    assert any(re.search(reason, each) for each in found.invalid), found.invalid


@pytest.mark.parametrize(
    "by",
    [
        generator(lag_p99_ms=10.0),
        generator(cpu_share=0.9),
        generator(cpu_share=None),
        generator(waited=9, lag_max_ms=1e4),
    ],
)
def test_a_generator_at_its_allowance_is_still_believed(by: Generator) -> None:
    assert judge(dataclasses.replace(FAST, achieved_per_s=9.8), by, SLO).state == "pass"


def test_lag_may_be_a_hundredth_of_the_tightest_scheduled_limit() -> None:
    loose = Slo(e2e_sched_ms=Percentiles(p95=5000.0, p99=9000.0), ttft_ms=Percentiles(p95=20.0))
    assert verdict.largest_allowed_lag_ms(loose) == 50.0
    assert verdict.largest_allowed_lag_ms(SLO) == 10.0
    assert verdict.largest_allowed_lag_ms(Slo()) == 10.0
    assert judge(FAST, generator(lag_p99_ms=49.0), loose).state == "invalid"  # p99 needs more values; not the lag
    assert not any("late" in reason for reason in judge(FAST, generator(lag_p99_ms=49.0), loose).invalid)


def test_a_closed_loop_has_no_timetable_to_be_late_for() -> None:
    found = summary([100.0] * 100, closed=True)
    slo = Slo(e2e_ms=Percentiles(p95=200.0))
    late = generator(lag_p99_ms=900.0)
    assert judge(dataclasses.replace(found, achieved_per_s=0.1), late, slo).state == "pass"
    assert judge(found, generator(cpu_share=0.99), slo).state == "invalid"


def test_an_invalid_run_names_every_reason_and_still_shows_its_checks() -> None:
    found = judge(summary([100.0] * 20), generator(lag_p99_ms=30.0, cpu_share=1.0), SLO)
    assert len(found.invalid) == 3
    assert len(found.checks) == 2


@given(
    good=st.integers(0, 120), errors=st.integers(0, 40), slow_ms=st.floats(1, 500), lag_ms=st.floats(0, 30),
    achieved=st.floats(0.9, 1.0), cpu=st.none() | st.floats(0, 1.2), allowed=st.floats(0, 1), strict=st.booleans(),
)  # fmt: skip
def test_only_a_believable_run_that_holds_every_limit_is_green(
    good: int,
    errors: int,
    slow_ms: float,
    lag_ms: float,
    achieved: float,
    cpu: float | None,
    allowed: float,
    strict: bool,
) -> None:
    made = summary([slow_ms] * good, errors)
    made = dataclasses.replace(made, achieved_per_s=achieved * (made.offered_per_s or 0))
    slo = SLO.model_copy(update={"error_rate": allowed, "strict": strict})
    found = judge(made, generator(lag_p99_ms=lag_ms, cpu_share=cpu), slo)
    believable = good + errors > 0 and lag_ms <= 10 and round(achieved, 9) >= 0.98 and (cpu is None or cpu <= 0.9)
    enough = good >= 59 or made.error_rate > allowed
    if not (believable and enough):
        assert found.state == "invalid" or abs(achieved - 0.98) < 1e-9
    else:
        assert found.state == ("pass" if made.error_rate <= allowed and slow_ms <= 200 else "fail")
    assert (found.state == "invalid") is bool(found.invalid)
    assert (found.exit_code == 0) is (found.state == "pass")


def test_exit_codes_tell_a_broken_limit_from_an_invalid_run_and_neither_is_a_usage_error() -> None:
    assert {state: Verdict(state, (), ()).exit_code for state in EXIT_CODES} == {"pass": 0, "fail": 1, "invalid": 3}
