from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loadtest import lab, records, sweep
from loadtest.arrivals import poisson
from loadtest.plan import Target
from loadtest.run import Run
from loadtest.search import LOWEST, MAX_PROBES, Found, Outcome, Probe, most_probes, search
from loadtest.serving import Served
from loadtest.sweep import SWEEP_FILE, document, in_words, is_saturating, knee, outcome_of, rows, run_sweep, step_load
from model_configs import schema
from model_configs.errors import Invalid, KitError
from model_configs.loadtest import LoadTest
from tests.fakes import simulated_runs
from tests.fakes.simulated_runs import plan_of, queue

Answer = Callable[[Probe], Outcome]


def a_load(**changes: Any) -> LoadTest:
    return LoadTest.model_validate({"payloads": "x", "rate": 40.0, "slo": {"e2e_sched_ms": {"p95": 100}}} | changes)


def driven(start_rate: float, answer: Answer, **options: Any) -> tuple[Found, list[Probe]]:
    """The search's answer, and what it asked."""
    searching = search(start_rate, **options)
    probe, asked = next(searching), []
    while True:
        asked.append(probe)
        try:
            probe = searching.send(answer(probe))
        except StopIteration as stop:
            return stop.value, asked


def edge(rate: float) -> Answer:
    return lambda probe: "held" if probe.rate <= rate else "broken"


@given(st.floats(1.0, 100.0), st.floats(1 / 60, 200.0))
@example(1.0, 2.0)  # the edge is a rate that doubling asks
@example(1.0, 0.5)
def test_an_edge_is_found_within_the_tolerance_and_confirmed_twice(start: float, factor: float) -> None:
    found, asked = driven(start, edge(start * factor))
    assert found.ended == "found"
    assert found.rate is not None
    assert found.broken is not None
    assert found.rate <= start * factor < found.broken <= found.rate * 1.05
    assert found.confirmations == 2
    assert [probe.confirms for probe in asked].count(True) == 2
    assert len(asked) <= most_probes(start, start * factor) <= MAX_PROBES


@given(st.integers(0, 2**32), st.floats(0.0, 1.0))
def test_the_search_ends_whatever_the_answers_are(seed: int, held_share: float) -> None:
    chooser = random.Random(seed)
    outcomes: list[Outcome] = ["broken", "generator"]
    found, asked = driven(10.0, lambda _: "held" if chooser.random() < held_share else chooser.choice(outcomes))
    assert len(asked) <= MAX_PROBES
    if found.ended == "found":
        assert [probe.rate for probe in asked if probe.confirms].count(found.rate or 0) >= 2


def test_all_but_one_in_twenty_noisy_searches_come_within_a_tenth() -> None:
    """The edge moves by 4 % from step to step, and one step in 50 is broken by the machine."""

    def one(seed: int) -> float:
        chooser = random.Random(seed)

        def answer(probe: Probe) -> Outcome:
            hiccup = chooser.random() < 0.02
            return "broken" if hiccup or probe.rate > 300 * (1 + chooser.gauss(0, 0.04)) else "held"

        return driven(60.0, answer)[0].rate or 0.0

    found = [one(seed) for seed in range(300)]
    assert sum(abs(rate / 300 - 1) <= 0.1 for rate in found) / len(found) >= 0.95


def test_a_rate_that_broke_once_by_chance_is_asked_again() -> None:
    """120 breaks the first time, far below the edge."""
    seen: list[float] = []

    def answer(probe: Probe) -> Outcome:
        seen.append(probe.rate)
        return "broken" if probe.rate == 120 and seen.count(120) == 1 else edge(300)(probe)

    found, _ = driven(60.0, answer)
    assert found.rate == pytest.approx(300, rel=0.05)


def test_a_rate_that_is_not_confirmed_gives_way_to_a_lower_one() -> None:
    found, asked = driven(100.0, lambda probe: "broken" if probe.confirms and probe.rate > 170 else edge(190)(probe))
    assert found.ended == "found"
    assert 155 < (found.rate or 0) <= 170
    assert 170 < (found.broken or 0) < 180
    assert max(probe.rate for probe in asked if probe.confirms) > 170


def test_when_nothing_holds_the_search_goes_down_to_its_floor() -> None:
    found, asked = driven(64.0, lambda probe: "broken")
    assert (found.rate, found.ended) == (None, "nothing")
    assert found.broken == asked[-1].rate == 64.0 * LOWEST


def test_everything_holds_up_to_the_generators_limit() -> None:
    found, _ = driven(10.0, lambda probe: "held" if probe.rate < 500 else "generator")
    assert found.ended == "generator"
    assert found.confirmations == 2
    assert 475 < (found.rate or 0) < 500 <= (found.broken or 0)


def test_a_generators_limit_above_the_services_own_does_not_matter() -> None:
    """Doubling goes past both; the service's edge is below."""
    found, _ = driven(10.0, lambda probe: "generator" if probe.rate > 500 else edge(400)(probe))
    assert found.ended == "found"
    assert found.rate == pytest.approx(400, rel=0.05)


def test_a_generator_that_is_too_slow_for_any_rate_says_so() -> None:
    assert driven(10.0, lambda probe: "generator")[0].ended == "generator"


def test_a_service_without_an_edge_ends_unsteady() -> None:
    found, asked = driven(1.0, lambda probe: "held")
    assert (found.ended, found.broken, len(asked)) == ("unsteady", None, MAX_PROBES)


@pytest.mark.parametrize(
    ("slo", "rate", "seconds"),
    [
        ({"e2e_sched_ms": {"p95": 100}}, 300.0, 12.0),
        ({"e2e_sched_ms": {"p95": 100}}, 2.0, 59.0),  # 2 × 59 answers
        ({"e2e_sched_ms": {"p95": 100, "p99": 200}}, 10.0, 91.8),  # 2 × 459
        ({"e2e_sched_ms": {"p99": 200}}, 4.0, 126.225),  # hardly more than 459
        ({"error_rate": 0.1}, 1.0, 12.0),
    ],
)
def test_a_step_is_as_long_as_its_percentile_needs(slo: dict[str, Any], rate: float, seconds: float) -> None:
    assert sweep.step_seconds(a_load(slo=slo).slo, rate) == pytest.approx(seconds)


def test_a_step_that_would_take_for_ever_is_refused() -> None:
    with pytest.raises(KitError, match="1010 s to have 459 answers"):
        sweep.lowest_rate(a_load(slo={"e2e_sched_ms": {"p99": 200}}).slo, 0.5)


def test_steps_have_their_rate_their_own_seed_and_a_short_timeout() -> None:
    load = a_load(warmup_s=20.0, seed=7)
    first, third = step_load(load, Probe(80.0), 1), step_load(load, Probe(160.0, confirms=True), 3)
    assert (first.rate, first.seed, first.warmup_s, first.duration_s, first.timeout_s) == (80.0, 8, 20.0, 12.0, 5.0)
    assert (third.rate, third.seed, third.warmup_s, third.duration_s) == (160.0, 10, 3.0, 24.0)
    tokens = a_load(slo={"ttft_sched_ms": {"p95": 200}})
    assert step_load(tokens, Probe(1.0), 1).timeout_s == 30.0  # a short TTFT says nothing of whole answers


def a_run(tmp_path: Path, service_ms: float, *, late_ms: float = 0.0, waited: bool = False, **changes: Any) -> Run:
    load = a_load(warmup_s=0.0, duration_s=15.0, **changes)
    found = queue(poisson(40.0, 15.0, 1), service_ms, 2)
    late = [dataclasses.replace(each, sent_s=each.sent_s + late_ms / 1e3, waited=waited) for each in found]
    return simulated_runs.write(tmp_path / "run", plan_of(load), late)


@pytest.mark.parametrize(
    ("service_ms", "changes", "outcome"),
    [
        (5.0, {}, "held"),
        (24.0, {}, "broken"),
        (5.0, {"late_ms": 50.0}, "generator"),
        (5.0, {"late_ms": 900.0, "waited": True}, "broken"),  # no user was free: they all waited for the server
        (5.0, {"slo": {"e2e_sched_ms": {"p99": 400}, "tpot_ms": {"p95": 9}}}, "too_few"),
        (40.0, {"slo": {"e2e_sched_ms": {"p95": 60_000}}}, "broken"),  # within the limit, but more and more behind
    ],
)
def test_a_step_is_judged(tmp_path: Path, service_ms: float, changes: dict[str, Any], outcome: str) -> None:
    run = a_run(tmp_path, service_ms, **changes)
    assert outcome_of(run, records.read(tmp_path / "run")) == outcome


@pytest.mark.parametrize(("load_share", "expected"), [(0.3, 0), (0.7, 0), (1.3, 20)])
def test_an_overload_saturates_and_a_steady_queue_does_not(load_share: float, expected: int) -> None:
    found = [queue(poisson(100 * load_share, 12.0, seed), 10.0, 100 + seed) for seed in range(20)]
    assert sum(map(is_saturating, found)) == expected


def test_a_stall_is_no_saturation() -> None:
    """The last third's answers between 10 and 11 s wait for up to a second."""
    found = queue(poisson(50.0, 12.0, 1), 5.0, 2)
    stalled = [
        dataclasses.replace(each, e2e_ms=each.e2e_ms + 1e3 * (11 - each.sent_s)) if 10 < each.sent_s < 11 else each
        for each in found
    ]
    assert not is_saturating(stalled)
    assert not is_saturating(found[:20])


def test_the_knee_of_a_queue_is_where_latency_takes_off() -> None:
    """M/M/1: latency 1 / (100 - rate). The point farthest from the chord solves 1 / (100 - x)² = chord's slope."""
    rates = [float(rate) for rate in range(10, 100, 2)]
    curve = [(rate, 1e3 / (100 - rate)) for rate in rates]
    slope = (curve[-1][1] - curve[0][1]) / (curve[-1][0] - curve[0][0])
    place = knee(curve)
    assert place is not None
    assert rates[place] == pytest.approx(100 - (1e3 / slope) ** 0.5, abs=1.01)


@given(st.permutations(range(8)))
def test_the_knee_does_not_depend_on_the_order(order: list[int]) -> None:
    curve = [(float(rate), 1e3 / (81 - rate)) for rate in range(10, 90, 10)]
    shuffled = [curve[place] for place in order]
    place = knee(shuffled)
    assert place is not None
    assert shuffled[place] == curve[knee(curve) or 0]


@pytest.mark.parametrize("points", [[], [(1, 1), (2, 5)], [(1, 1), (2, 2), (3, 3)], [(1, 5), (2, 5), (3, 5)]])
def test_a_line_has_no_knee(points: list[tuple[float, float]]) -> None:
    assert knee(points) is None


class Server:
    """Measures M/M/1 with 4 ms a request instead of a server; its generator is late beyond a rate."""

    def __init__(self, generator_limit: float = 1e9) -> None:
        self.generator_limit, self.made = generator_limit, list[str]()

    def measure(
        self,
        served: Served,
        load: LoadTest,
        folder: Path,
        *,
        processes: int = 1,
        price: tuple[float, str] | None = None,
    ) -> Run:
        """In lab.measure's place."""
        self.made.append(folder.name)
        plan = plan_of(load)
        found = queue(plan.timetable(), 4.0, load.seed + 100, load.warmup_s)
        if (load.rate or 0) > self.generator_limit:
            found = [dataclasses.replace(each, sent_s=each.sent_s + 0.05) for each in found]
        return simulated_runs.write(folder, plan, found)


@pytest.fixture
def served() -> Served:
    return Served(schema.load_model("minilm"), Target(kind="predictions", url="http://127.0.0.1:2", model="minilm"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    found = Server()
    monkeypatch.setattr(lab, "measure", found.measure)
    return found


def test_a_sweep_finds_the_rate_of_a_queue(tmp_path: Path, served: Served, server: Server) -> None:
    """95 % of M/M/1's answers take less than ln(20) / (250 - rate): 100 ms at 220/s. Steps of 12 s see noise."""
    said: list[str] = []
    found = run_sweep(served, a_load(warmup_s=3.0), tmp_path, 40.0, price=(3.6, "list"), say=said.append)
    assert found.found.ended == "found"
    assert found.found.rate == pytest.approx(220, rel=0.1)
    assert found.exit_code == 0
    assert found.in_flight == pytest.approx(found.in_flight_expected, rel=0.05)
    assert found.cost is not None
    assert found.goodput_per_s is not None
    assert found.cost.per_1k_requests == pytest.approx(1.0 / found.goodput_per_s)
    answer = next(point for point in found.points if point.run == found.run)
    assert answer.confirms
    assert (answer.rate, answer.state) == (found.found.rate, "pass")
    assert json.loads((tmp_path / SWEEP_FILE).read_text()) == json.loads(json.dumps(document(found)))
    assert (tmp_path / "report.html").exists()
    assert len(said) == 1 + len(found.points)
    assert "2 times confirmed" in in_words(found)[0]
    assert len({tuple(row) for row in rows(found)}) == 1


def test_a_sweep_that_was_broken_off_makes_no_step_twice(tmp_path: Path, served: Served, server: Server) -> None:
    load = a_load(warmup_s=1.0)
    whole = run_sweep(served, load, tmp_path, 40.0)
    steps, server.made = server.made, []
    again = run_sweep(served, load, tmp_path, 40.0)
    assert server.made == []
    assert dataclasses.replace(again, seconds=0) == dataclasses.replace(whole, seconds=0)
    (tmp_path / steps[-1] / "run.json").unlink()  # broken off while it ran
    run_sweep(served, load, tmp_path, 40.0)
    assert server.made == steps[-1:]


def test_steps_of_another_sweep_are_not_taken_for_this_ones(tmp_path: Path, served: Served, server: Server) -> None:
    load = a_load(warmup_s=1.0, slo={"e2e_sched_ms": {"p50": 1}})
    run_sweep(served, load, tmp_path, 4.0)
    with pytest.raises(KitError, match="01-4.0rps is a step of another sweep"):
        run_sweep(served, load.model_copy(update={"seed": 5}), tmp_path, 4.0)


def test_a_sweep_beyond_its_generator_is_invalid_but_tells_how_far_it_came(
    tmp_path: Path, served: Served, server: Server
) -> None:
    server.generator_limit = 100.0
    found = run_sweep(served, a_load(warmup_s=1.0), tmp_path, 40.0)
    assert found.exit_code == 3
    assert found.found.rate == pytest.approx(100, rel=0.05)
    assert "the generator is the limit" in in_words(found)[0]
    assert {point.state for point in found.points if point.rate > 100} == {"invalid"}


def test_a_slo_that_no_rate_holds_fails(tmp_path: Path, served: Served, server: Server) -> None:
    load = a_load(warmup_s=0.0, slo={"e2e_sched_ms": {"p50": 1}})
    found = run_sweep(served, load, tmp_path, 4.0)
    assert (found.exit_code, found.found.rate, found.run) == (1, None, None)
    assert "no rate held the SLO" in in_words(found)[0]


def test_a_step_with_too_few_answers_is_made_longer_and_then_given_up(
    tmp_path: Path, served: Served, server: Server
) -> None:
    load = a_load(warmup_s=0.0, slo={"e2e_sched_ms": {"p95": 100}, "tpot_ms": {"p95": 10}})
    with pytest.raises(Invalid, match="tpot_ms p95 of 0 values"):
        run_sweep(served, load, tmp_path, 4.0)
    assert len(server.made) == 3


@pytest.mark.parametrize("arrivals", ["closed", "ramp", "trace"])
def test_loads_without_a_rate_of_their_own_have_no_sweep(
    tmp_path: Path, served: Served, server: Server, arrivals: str
) -> None:
    more: dict[str, Any] = {"closed": {"slo": {}}, "ramp": {"end_rate": 2.0}, "trace": {"trace": "x"}}
    with pytest.raises(KitError, match=arrivals):
        run_sweep(served, a_load(arrivals=arrivals, **more[arrivals]), tmp_path, 4.0)
