"""The loadtest section of a YAML: what it needs and refuses, with the key that is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from loadtest import workload
from model_configs.loadtest import LoadTest, Slo
from model_configs.schema import load_model, model_names
from servekit.strict import problems


def section(**values: Any) -> dict[str, Any]:
    return {"payloads": "short_queries", **values}


def complaints(values: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        LoadTest.model_validate(values)
    return "\n".join(problems(caught.value, LoadTest))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "payloads: Field required"),
        (section(rat=5), "rat: unknown key; did you mean 'rate'?"),
        (section(duration=5), "duration: unknown key; did you mean 'duration_s'?"),
        (section(slo={"e2e": {}}), "slo.e2e: unknown key; did you mean 'e2e_ms'?"),
        (section(slo={"e2e_ms": {"p96": 1}}), "slo.e2e_ms.p96: unknown key; did you mean 'p9"),
        (section(slo={"e2e_ms": {"p95": 0}}), "slo.e2e_ms.p95: Input should be greater than 0, got 0"),
        (section(slo={"error_rate": 1.5}), "slo.error_rate: Input should be less than or equal to 1, got 1.5"),
        (section(arrivals="uniform"), "arrivals: Input should be 'closed', 'constant'"),
        (section(target="grpc"), "target: Input should be 'predictions', 'invocations'"),
        (section(rate=0), "rate: Input should be greater than 0, got 0"),
        (section(rate="60"), "rate: Input should be a valid number, got '60'"),
        (section(clients=0), "clients: Input should be greater than or equal to 1, got 0"),
        (section(warmup_s=-1), "warmup_s: Input should be greater than or equal to 0, got -1"),
        (section(duration_s=0), "duration_s: Input should be greater than 0, got 0"),
        (section(arrivals="ramp", rate=5), "arrivals: ramp needs end_rate"),
        (section(arrivals="trace"), "arrivals: trace needs trace"),
        (section(end_rate=5), "end_rate goes with arrivals: ramp, and only with it"),
        (section(arrivals="ramp", end_rate=5, trace="t"), "trace goes with arrivals: trace, and only with it"),
        (
            section(arrivals="closed", slo={"ttft_sched_ms": {"p95": 5}}),
            "slo.ttft_sched_ms: a closed loop has no intended times; without _sched it has",
        ),
    ],
)
def test_a_mistake_names_its_key(values: dict[str, Any], expected: str) -> None:
    assert expected in complaints(values)


@pytest.mark.parametrize("rate", ["inf", "nan"])
def test_a_rate_is_a_finite_number(rate: str) -> None:
    assert "rate: " in complaints(section(rate=float(rate)))


@pytest.mark.parametrize("key", ["warmup_s", "duration_s", "timeout_s", "think_time_s"])
def test_no_time_is_without_end(key: str) -> None:
    assert f"{key}: " in complaints(section(**{key: float("inf")}))


def test_every_limit_is_told_with_its_metric_and_percentile() -> None:
    slo = Slo.model_validate({"e2e_sched_ms": {"p99": 400, "p50": 100}, "ttft_ms": {"p95": 50}, "itl_ms": {"p90": 20}})
    assert list(slo.limits()) == [
        ("e2e_sched_ms", "p50", 100.0), ("e2e_sched_ms", "p99", 400.0), ("ttft_ms", "p95", 50.0), ("itl_ms", "p90", 20.0),
    ]  # fmt: skip


def test_an_answer_is_good_within_the_limit_of_each_metrics_highest_percentile() -> None:
    slo = Slo.model_validate({"e2e_sched_ms": {"p99": 400, "p50": 100}, "tpot_ms": {"p50": 20}})
    assert slo.request_limits() == {"e2e_sched_ms": 400.0, "tpot_ms": 20.0}
    assert Slo().request_limits() == {}


def test_a_closed_loop_may_limit_what_counts_from_sending() -> None:
    found = LoadTest.model_validate(section(arrivals="closed", slo={"e2e_ms": {"p95": 5}, "itl_ms": {"p95": 5}}))
    assert found.clients == 8


@pytest.mark.parametrize("name", [name for name in model_names() if load_model(name).loadtest])
def test_every_measured_model_of_the_kit_has_limits_and_payloads(name: str) -> None:
    found = load_model(name).loadtest
    assert found is not None
    assert list(found.slo.limits())
    assert workload.load(workload.find(found.payloads))
