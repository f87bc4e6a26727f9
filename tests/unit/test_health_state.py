"""What /ping follows from, moment by moment."""

from __future__ import annotations

import pytest

from deploy.health_state import (
    GOLDEN_EVERY_S,
    RESTARTS_WINDOW_S,
    SILENT_S,
    ModelState,
    ServerState,
    Worker,
    problems,
)


def workers(*told: tuple[str, int]) -> list[Worker]:
    return [Worker(status, pid) for status, pid in told]


def proven(at_s: float = 0.0, wanted: int = 1) -> ModelState:
    model = ModelState("m", wanted)
    model.described(at_s, workers(*(("READY", 1 + place) for place in range(wanted))))
    model.answered(at_s, 0.01, "")
    return model


def test_nothing_is_well_before_it_is_proven() -> None:
    model = ModelState("m", 1)
    assert model.problem(0) == "TorchServe has not answered yet"
    assert not model.golden_due(0)
    model.described(0, [])
    assert model.problem(0) == "0 of 1 workers are READY (none started)"
    assert not model.golden_due(0)
    model.described(1, workers(("READY", 1)))
    assert model.problem(1) == "the golden request has not been answered yet"
    assert model.golden_due(1)
    model.busy(1)
    assert model.problem(1) != ""
    model.answered(2, 0.1, "")
    assert model.problem(2) == ""


@pytest.mark.parametrize("status", ["UNLOADING", "LOADING", "WORKER_STOPPED", "anything"])
def test_a_worker_that_is_not_ready_shows_at_once(status: str) -> None:
    model = proven(wanted=2)
    model.described(1, workers(("READY", 1), (status, -1)))
    assert model.problem(1) == f"1 of 2 workers are READY (READY, {status})"
    assert not model.golden_due(99)
    model.described(2, workers(("READY", 1), ("READY", 3)))
    assert model.problem(2) == ""
    assert model.golden_due(2)  # another process, which is asked at once


def test_more_workers_than_wanted_must_all_be_ready() -> None:
    model = proven()
    model.described(1, workers(("READY", 1), ("LOADING", 2)))
    assert model.problem(1) == "1 of 2 workers are READY (READY, LOADING)"


def test_workers_that_start_are_no_restarts() -> None:
    model = ModelState("m", 3)
    for now_s, pids in enumerate(([7], [7, 8], [7, 8, 9])):
        model.described(now_s, workers(*(("READY", pid) for pid in pids)))
    model.answered(3, 0.1, "")
    assert model.problem(3) == ""


def test_a_worker_that_is_restarted_again_and_again_shows_although_it_is_always_ready() -> None:
    model = proven()
    for now_s, pid in ((1, 11), (2, 12), (3, 13)):
        assert model.problem(now_s) == ""
        model.described(now_s, workers(("READY", pid)))
    assert model.problem(3) == "3 restarts of workers within 300 s"
    model.answered(4, 0.1, "")
    assert model.problem(4) != ""
    after_s = 2 + RESTARTS_WINDOW_S
    model.described(after_s, workers(("READY", 13)))
    assert model.problem(after_s) == ""


def test_restarts_that_are_far_apart_are_none() -> None:
    model = proven()
    for number in range(10):
        now_s = number * RESTARTS_WINDOW_S
        model.described(now_s, workers(("READY", 100 + number)))
        assert model.problem(now_s) == ""


def test_a_wrong_answer_shows_until_a_right_one() -> None:
    model = proven()
    model.answered(10, 0.1, "cosine 0.5")
    assert model.problem(10) == "cosine 0.5"
    assert model.golden_due(11.1)
    model.busy(11)
    assert model.problem(11) == "cosine 0.5"
    model.answered(12, 0.1, "")
    assert model.problem(12) == ""


def test_a_busy_server_stays_well_while_its_workers_are() -> None:
    model = proven()
    for now_s in range(1, 10_000, 20):
        model.described(now_s, workers(("READY", 1)))
        model.busy(now_s)
        assert model.problem(now_s) == ""


def test_a_hung_management_api_shows_after_a_while() -> None:
    model = proven()
    assert model.problem(SILENT_S) == ""
    assert "has not answered for 31 s" in model.problem(SILENT_S + 1)


def test_golden_requests_take_little_of_a_slow_model_s_time() -> None:
    fast, slow = proven(), proven()
    fast.answered(0, 0.001, "")
    slow.answered(0, 2.0, "")
    for model in (fast, slow):
        model.described(1, workers(("READY", 1)))
    assert (fast.golden_due(GOLDEN_EVERY_S - 1), fast.golden_due(GOLDEN_EVERY_S)) == (False, True)
    assert (slow.golden_due(99), slow.golden_due(100)) == (False, True)


def test_one_that_is_gone_is_gone_around() -> None:
    one, two = ServerState(1, [proven()]), ServerState(2, [proven()])
    assert problems([], 0) == ["there is no TorchServe"]
    assert problems([one, two], 0) == []
    one.gone = True
    assert problems([one, two], 0) == []
    two.gone = True
    assert problems([one, two], 0) == ["port 1: TorchServe has ended", "port 2: TorchServe has ended"]


def test_one_that_answers_wrong_is_not_gone_around() -> None:
    bad = proven()
    bad.answered(1, 0.1, "cosine 0.5")
    assert problems([ServerState(1, [proven()]), ServerState(2, [bad])], 1) == ["port 2, m: cosine 0.5"]


def test_documents() -> None:
    server = ServerState(1, [ModelState("m", 2)])
    model = {"model": "m", "workers_ready": 0, "workers": 2, "problem": "TorchServe has not answered yet"}
    assert server.document(0) == {"port": 1, "gone": False, "models": [model]}
