"""Runs by a generator process of their own, against a server that does as it is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest import short_runs
from loadtest.plan import Target
from loadtest.short_runs import ShortRuns
from model_configs.errors import Failed
from model_configs.loadtest import LoadTest
from tests.fakes.scripted import Scripted, scripted_server

pytestmark = pytest.mark.load
PORT = 18985


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scripted]:
    with scripted_server(PORT, tmp_path_factory.mktemp("scripted")) as found:
        yield found


def target(server: Scripted, script: str) -> Target:
    return Target(kind="predictions", url=server.url, model=script)


def test_one_process_makes_closed_and_open_runs_one_after_the_other(server: Scripted, tmp_path: Path) -> None:
    closed = LoadTest(payloads="short_queries", arrivals="closed", clients=4, warmup_s=0.3, duration_s=1.0)
    opened = LoadTest(payloads="mixed", arrivals="constant", rate=40, users=20, warmup_s=0.3, duration_s=1.0)
    with ShortRuns(tmp_path / "generator.log") as runs:
        first = runs.measure(target(server, "delay=20"), closed)
        second = runs.measure(target(server, "delay=20"), opened)
        third = runs.measure(target(server, "delay=5,refuse=2"), closed)
    assert 60 < first.summary.answered_per_s <= 200
    assert 19 < first.summary.latencies["e2e_ms"].mean < 60
    assert second.summary.requests == 40
    assert second.summary.failed == 0
    assert second.generator.lost == 0
    assert "e2e_sched_ms" in second.summary.latencies
    assert third.summary.errors.keys() == {"refused"}
    assert 0.3 < third.summary.error_rate < 0.7


def test_a_run_in_which_no_answer_comes_has_no_requests(server: Scripted, tmp_path: Path) -> None:
    load = LoadTest(payloads="short_queries", arrivals="closed", clients=1, warmup_s=0.2, duration_s=0.5, timeout_s=5)
    with ShortRuns(tmp_path / "generator.log") as runs:
        run = runs.measure(target(server, "delay=2000"), load)
    assert (run.summary.requests, run.summary.answered_per_s) == (0, 0.0)


def test_a_single_request_tells_its_time_or_what_went_wrong(server: Scripted) -> None:
    load = LoadTest(payloads="short_queries", timeout_s=5)
    assert 19 < short_runs.ask_once(target(server, "delay=20"), load) < 500
    with pytest.raises(Failed, match="timeout"):
        short_runs.ask_once(target(server, "delay=2000"), load.model_copy(update={"timeout_s": 0.2}))
