"""readiness.check against every state that describe-model and a prediction can show."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from deploy.http_client import Response, Unreachable
from deploy.local import LOG_FILE, ServedModel, Server
from deploy.readiness import check, wait_ready
from model_configs.errors import Failed
from servekit.golden import Golden

GOLDEN = Golden({"inputs": ["a"]}, "vectors", [[0.6, 0.8]], 0.0001)
RIGHT = b"[[0.6, 0.8]]"


@dataclass
class FakeServer:
    """Answers as TorchServe would, without one."""

    states: list[str] = field(default_factory=lambda: ["READY"])
    reply: bytes = RIGHT
    status: int = 200
    alive: bool = True
    reachable: bool = True
    describe_status: int = 200
    folder: Path = Path("/nowhere")
    models: tuple[ServedModel, ...] = ()

    def management(self) -> FakeServer:
        return self

    def inference(self) -> FakeServer:
        return self

    def get(self, path: str) -> Response:
        if not self.reachable:
            raise Unreachable("GET: connection refused")
        assert path == "/models/m/1.0"
        workers = [{"status": state} for state in self.states]
        return Response(self.describe_status, json.dumps([{"workers": workers}]).encode(), {})

    def post(self, path: str, body: bytes, content_type: str = "") -> Response:
        assert (path, json.loads(body)) == ("/predictions/m/1.0", GOLDEN.body)
        return Response(self.status, self.reply, {})


def model(workers: int = 1) -> ServedModel:
    return ServedModel("m", "1.0", "m.mar", workers, 1, GOLDEN)


def as_server(fake: FakeServer) -> Server:
    return cast(Any, fake)


@pytest.mark.parametrize(("states", "workers"), [(["READY"], 1), (["READY", "READY"], 2), (["READY", "READY"], 1)])
def test_ready_when_every_worker_is_and_the_answer_is_right(states: list[str], workers: int) -> None:
    result = check(as_server(FakeServer(states)), model(workers))
    assert (result.ready, result.workers_ready, result.workers, result.problem) == (True, len(states), len(states), "")


@pytest.mark.parametrize(
    ("fake", "problem"),
    [
        (FakeServer(alive=False), "the server does not run"),
        (FakeServer(reachable=False), "connection refused"),
        (FakeServer(describe_status=404), "describe-model says 404"),
        (FakeServer(states=[]), "0 of 2 workers are READY (none started)"),
        (FakeServer(states=["READY"]), "1 of 2 workers are READY (READY)"),
        (FakeServer(states=["READY", "READY", "LOADING"]), "2 of 3 workers are READY (READY, READY, LOADING)"),
        (FakeServer(states=["READY", "READY"], status=500, reply=b"x"), "the golden request got 500: b'x'"),
        (FakeServer(states=["READY", "READY"], reply=b"[[0.8, 0.6]]"), "answer 0: cosine 0.96"),
    ],
)
def test_not_ready_says_why(fake: FakeServer, problem: str) -> None:
    result = check(as_server(fake), model(workers=2))
    assert not result.ready
    assert problem in result.problem


def test_waiting_ends_when_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.readiness.JAVA_START_S", 0)
    fake = FakeServer(states=["LOADING"], folder=tmp_path, models=(model(),))
    with pytest.raises(Failed, match="not ready in time: 0 of 1 workers are READY"):
        wait_ready(as_server(fake))


def test_a_wrong_answer_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="m: answer 0: cosine"):
        wait_ready(as_server(FakeServer(reply=b"[[0.8, 0.6]]", folder=tmp_path, models=(model(),))))


def test_the_log_is_told_line_by_line(tmp_path: Path) -> None:
    log = tmp_path / LOG_FILE
    log.parent.mkdir()
    log.write_text("one\ntwo\n")
    said: list[str] = []
    assert wait_ready(as_server(FakeServer(folder=tmp_path, models=(model(),))), said.append)[0].ready
    assert said == ["one", "two"]
