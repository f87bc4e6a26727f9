"""Who gets which request, what is in flight, and the steps of a deployment."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.emulator.container import Container
from deploy.emulator.traffic import Fleet, NoVariant, Router, Step, Turns, Variant, steps


class Idle(Container):
    """Never started."""

    def __init__(self) -> None:
        pass


def fleet(**weights: float) -> Fleet:
    variants = [Variant(name, {}, "image", Idle(), weight, 1) for name, weight in weights.items()]
    return Fleet({"EndpointConfigName": "c"}, variants, [])


@given(st.dictionaries(st.text(max_size=3), st.integers(1, 20), min_size=1, max_size=5), st.integers(1, 200))
def test_each_gets_its_share_give_or_take_one(weights: dict[str, int], turns: int) -> None:
    line: Turns[str] = Turns()
    got = Counter(line.next(weights) for _ in range(turns))
    for name, weight in weights.items():
        assert abs(got[name] - turns * weight / sum(weights.values())) <= 1 + 1e-6


def test_weights_that_change_are_followed() -> None:
    line: Turns[str] = Turns()
    assert {line.next({"a": 1, "b": 0}) for _ in range(5)} == {"a"}
    assert {line.next({"a": 0, "b": 1}) for _ in range(5)} == {"b"}


def test_a_canary_gets_each_tenth_request() -> None:
    old, new, router = fleet(a=1), fleet(a=1), Router()
    router.share({old: 0.9, new: 0.1})
    leases = [router.lease() for _ in range(100)]
    assert sum(lease is not None and lease.fleet is new for lease in leases) == 10
    assert (old.in_flight, new.in_flight) == (90, 10)


def test_variants_get_requests_by_weight_or_by_name() -> None:
    one, router = fleet(a=3, b=1), Router()
    router.share({one: 1.0})
    leases = [router.lease() for _ in range(40)]
    assert Counter(lease.variant.name for lease in leases if lease) == {"a": 30, "b": 10}
    by_name = router.lease("b")
    assert by_name
    assert by_name.variant.name == "b"
    with pytest.raises(NoVariant):
        router.lease("c")
    assert one.in_flight == 41


def test_nothing_serves_without_a_share() -> None:
    router = Router()
    assert router.lease() is None
    router.share({fleet(a=1): 0.0})
    assert router.lease() is None


def test_a_drain_waits_for_the_last_request_and_no_longer() -> None:
    old, new, router = fleet(a=1), fleet(a=1), Router()
    router.share({old: 1.0})
    lease = router.lease()
    assert lease
    copy = lease.again(lease.variant)
    router.share({new: 1.0})
    assert not router.drain(old, 0.01)
    lease.release()
    lease.release()  # once is enough
    assert old.in_flight == 1
    threading.Timer(0.05, copy.release).start()
    assert router.drain(old, 5)
    assert router.drain(new, 0)


def routing(kind: str, wait_s: int = 60, **more: Any) -> dict[str, Any]:
    return {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": {"Type": kind, "WaitIntervalInSeconds": wait_s, **more}
        }
    }


def percent(value: int, kind: str = "CAPACITY_PERCENT") -> dict[str, Any]:
    return {"Type": kind, "Value": value}


@pytest.mark.parametrize(
    ("deployment", "instances", "expected"),
    [
        ({}, 1, [(1.0, 0)]),
        (routing("ALL_AT_ONCE"), 1, [(1.0, 60)]),
        (routing("CANARY", CanarySize=percent(10)), 1, [(0.1, 60), (1.0, 0)]),
        (routing("CANARY", CanarySize=percent(1, "INSTANCE_COUNT")), 4, [(0.25, 60), (1.0, 0)]),
        (routing("LINEAR", LinearStepSize=percent(40)), 1, [(0.4, 60), (0.8, 60), (1.0, 60)]),
        (
            {"RollingUpdatePolicy": {"MaximumBatchSize": percent(50), "WaitIntervalInSeconds": 9}},
            2,
            [(0.5, 9), (1.0, 9)],
        ),
    ],
)
def test_steps(deployment: dict[str, Any], instances: int, expected: list[tuple[float, float]]) -> None:
    assert steps(deployment, instances) == [Step(*each) for each in expected]


@given(st.integers(10, 50))
def test_linear_steps_end_at_all(value: int) -> None:
    shares = [step.share for step in steps(routing("LINEAR", LinearStepSize=percent(value)), 1)]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(shares) <= 10
