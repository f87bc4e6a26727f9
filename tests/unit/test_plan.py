"""A plan's timetable: the warm-up's requests and the measured phase's, each told by its intended time."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.plan import Plan, Target
from model_configs.errors import KitError
from model_configs.loadtest import LoadTest

TARGET = Target(kind="predictions", url="http://127.0.0.1:8080", model="minilm")


def plan(**load: Any) -> Plan:
    return Plan(target=TARGET, load=LoadTest(payloads="p", **load), payloads="/p", folder="/f")


def phases(made: Plan) -> dict[str, int]:
    found = [made.phase_at(time) for time in made.timetable()]
    assert found == sorted(found, reverse=True)  # warmup, then measure
    return {phase: found.count(phase) for phase in ("warmup", "measure")}


@given(
    kind=st.sampled_from(["constant", "poisson", "gamma"]), rate=st.floats(0.5, 40), warmup_s=st.floats(0, 10),
    duration_s=st.floats(2, 15), seed=st.integers(0, 99),
)  # fmt: skip
def test_each_phase_has_its_own_number_of_requests(
    kind: str, rate: float, warmup_s: float, duration_s: float, seed: int
) -> None:
    made = plan(arrivals=kind, rate=rate, warmup_s=warmup_s, duration_s=duration_s, seed=seed, burstiness=0.3)
    times = made.timetable()
    assert times == sorted(times)
    assert phases(made) == {"warmup": round(rate * warmup_s), "measure": round(rate * duration_s)}
    assert times[-1] <= made.total_s == warmup_s + duration_s


def test_a_request_belongs_to_the_phase_in_which_it_was_intended() -> None:
    made = plan(rate=1.0, warmup_s=5.0)
    assert [made.phase_at(time) for time in (0.0, 4.999, 5.0, 500.0)] == ["warmup", "warmup", "measure", "measure"]
    assert plan(rate=1.0, warmup_s=0.0).phase_at(0.0) == "measure"


def test_constant_arrivals_do_not_pause_between_warm_up_and_measuring() -> None:
    times = plan(arrivals="constant", rate=8.0, warmup_s=3.0, duration_s=4.0).timetable()
    assert [after - before for before, after in pairwise(times)] == pytest.approx([1 / 8] * 55)


def test_a_seed_is_a_timetable_and_the_warm_up_is_no_copy_of_what_follows() -> None:
    made = plan(rate=10.0, warmup_s=10.0, duration_s=10.0, seed=3)
    times = made.timetable()
    assert times == made.timetable()
    assert times != plan(rate=10.0, warmup_s=10.0, duration_s=10.0, seed=4).timetable()
    assert times[100:] != pytest.approx([10 + time for time in times[:100]])


def test_a_longer_warm_up_leaves_the_measured_requests_where_they_were() -> None:
    short = plan(rate=10.0, warmup_s=1.0, duration_s=10.0).timetable()[10:]
    long = plan(rate=10.0, warmup_s=4.0, duration_s=10.0).timetable()[40:]
    assert [time + 3 for time in short] == pytest.approx(long)


def test_a_ramp_warms_up_at_its_first_rate() -> None:
    made = plan(arrivals="ramp", rate=10.0, end_rate=30.0, warmup_s=5.0, duration_s=10.0)
    assert phases(made) == {"warmup": 50, "measure": 200}
    times = made.timetable()[50:]
    assert sum(time < 10 for time in times) == pytest.approx(75, abs=20)  # of 5 s at 10 to 20 a second


def test_a_trace_is_replayed_after_a_warm_up_at_its_mean_rate(tmp_path: Path) -> None:
    file = tmp_path / "trace"
    file.write_text("\n".join(str(100 + place / 4) for place in range(41)))
    made = plan(arrivals="trace", trace=str(file), warmup_s=5.0, duration_s=60.0)
    times = made.timetable()
    assert times[-41:] == pytest.approx([5 + place / 4 for place in range(41)])
    assert phases(made) == {"warmup": round(5 * 41 / 10), "measure": 41}
    faster = plan(arrivals="trace", trace=str(file), rate=8.0, warmup_s=5.0, duration_s=60.0)
    assert phases(faster) == {"warmup": 40, "measure": 41}
    assert faster.timetable()[-1] == pytest.approx(10.0)


def test_a_trace_of_one_moment_has_no_rate_to_warm_up_at(tmp_path: Path) -> None:
    file = tmp_path / "trace"
    file.write_text("7\n7\n7\n")
    assert plan(arrivals="trace", trace=str(file), warmup_s=5.0).timetable() == [5.0, 5.0, 5.0]


@pytest.mark.parametrize(
    ("load", "message", "hint"),
    [
        ({"rate": None}, "loadtest.rate: an open loop needs a rate", "--rate"),
        ({"rate": 0.1, "duration_s": 2.0}, r"0\.1 requests/s for 2 s are none", "longer --duration"),
        ({"arrivals": "trace", "trace": "/nowhere/trace"}, r"loadtest\.trace: .*/nowhere/trace", "a line"),
    ],
)
def test_a_timetable_that_cannot_be_made_says_why(load: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(KitError, match=message) as caught:
        plan(**load).timetable()
    assert hint in caught.value.hint


def test_a_trace_that_is_none_names_its_line(tmp_path: Path) -> None:
    file = tmp_path / "trace"
    file.write_text("1\nsoon\n")
    with pytest.raises(KitError, match=r"loadtest\.trace: .*trace:2"):
        plan(arrivals="trace", trace=str(file)).timetable()


def test_only_closed_arrivals_are_a_closed_loop() -> None:
    assert plan(arrivals="closed").closed
    assert not plan(arrivals="constant", rate=1.0).closed


def test_a_plan_comes_back_from_its_file() -> None:
    made = plan(rate=3.0, slo={"e2e_sched_ms": {"p95": 100.0}})
    assert Plan.model_validate_json(made.model_dump_json()) == made
