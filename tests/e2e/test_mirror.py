"""A real nginx that copies requests to a second endpoint: what is recorded, and that no client ever notices."""

from __future__ import annotations

import base64
import http.client
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import kit
from deploy import background, gateway_verbs, mirror, mirror_record, mirror_report
from model_configs.gateway import GatewaySettings, Mirror
from tests.fakes.gateways import Fake, Running, running

PORT = 22710
MIRRORED = 22750
RIGHT = [[0.6, 0.8]]


@contextmanager
def mirrored(folder: Path, port: int = PORT, **settings: Any) -> Iterator[tuple[Running, Fake]]:
    """A gateway that copies everything to a second scripted TorchServe."""
    second = Fake(MIRRORED, folder / "second")
    key_file = folder / "mirror.key"
    key_file.write_text("of-the-mirror\n")
    own = Mirror(url=f"http://127.0.0.1:{MIRRORED}", sample=1.0, key_file=str(key_file), **settings)
    try:
        with running(folder, port, settings=GatewaySettings(mirror=own)) as gateway:
            yield gateway, second
    finally:
        second.kill()


def ask_in_a_row(gateway: Running, scripts: list[dict[str, Any]]) -> list[tuple[int, bytes]]:
    """On one connection, which nginx keeps from its next request until a copy has been taken."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    replies = []
    for script in scripts:
        connection.request("POST", "/invocations", json.dumps(script), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        replies.append((reply.status, reply.read()))
    connection.close()
    return replies


def ask_and_wait(gateway: Running, script: dict[str, Any]) -> list[tuple[int, bytes]]:
    """One request, until it is in the record."""
    before = len(record(gateway))
    replies = ask_in_a_row(gateway, [script])
    wait_for(gateway, lambda lines: len(lines) == before + 1)
    return replies


def record(gateway: Running) -> list[dict[str, Any]]:
    return list(mirror_report.read_record(gateway.gateway.folder / mirror_record.RECORD_DIR))


def wait_for(gateway: Running, is_enough: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    gateway.wait(lambda: is_enough(record(gateway)))
    return record(gateway)


def test_answers_of_both_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(gateway_verbs, "RUN_DIR", tmp_path / "run")
    with mirrored(tmp_path) as (gateway, second):
        scripts: list[dict[str, Any]] = [
            {},
            {"answer": [{"label": "a", "score": 0.9}]},
            {"tokens": 20, "gap_ms": 5},
            {"answer": {"x": 1}},
        ]
        replies = [reply for script in scripts for reply in ask_and_wait(gateway, script)]
        assert [status for status, _ in replies] == [200] * 4
        assert replies[2][1] == b"".join(b"t%d " % number for number in range(20))
        lines = record(gateway)
        assert [line["difference"]["kind"] for line in lines] == ["vectors", "labels", "text", "json"]
        assert all(line["difference"]["equal"] for line in lines)
        assert kit.run(["mirror", "report"]) == 0
        # The copies are what the client sent, with the mirror's key instead of the client's.
        heads = [request["head"] for request in second.requests(4)]
        assert {head.split("\r\n")[0] for head in heads} == {"POST /invocations HTTP/1.1"}
        assert all("Authorization: Bearer of-the-mirror" in head for head in heads)
        assert [json.loads(request["body"]) for request in second.requests()] == scripts
        assert all(sum(f"X-Request-Id: {line['id']}" in head for head in heads) == 1 for line in lines)

        second.control(script={"answer": [[0.8, 0.6]]})
        for script in scripts[:2]:
            ask_and_wait(gateway, script)
        second.control(script={"status": 500})
        ask_and_wait(gateway, {})
        lines = record(gateway)
        assert lines[4]["difference"]["cosine"] == pytest.approx(0.96)
        assert lines[5]["difference"]["what"] == "labels and vectors"
        assert lines[6]["difference"]["what"] == "status 200 and 500"
        capsys.readouterr()
        assert kit.run(["mirror", "report"]) == 1
        document = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert (document["compared"], document["different"], document["good"]) == (7, 3, False)
        assert kit.run(["mirror", "report", "--fail-above", "0.5", "--least-cosine", "0.9"]) == 0
        # Nothing of what was said is kept, and the record is its owner's alone.
        folder = gateway.gateway.folder
        kept = (folder / mirror_record.RECORD_DIR / mirror_record.RECORD).read_text()
        assert "label" not in json.dumps([line["primary"] for line in lines])
        assert '"body"' not in kept
        assert (folder / mirror_record.RECORD_DIR / mirror_record.RECORD).stat().st_mode & 0o777 == 0o600
        assert (folder / mirror.ANSWERS_FILE).stat().st_mode & 0o777 == 0o600
        gateway.wait(lambda: (folder / mirror.ANSWERS_FILE).stat().st_size == 0)


def test_nothing_that_happens_to_the_mirror_reaches_a_client(tmp_path: Path) -> None:
    with mirrored(tmp_path, PORT + 20, timeout_s=1.0, max_in_flight=2, record="bodies") as (gateway, second):
        asked = 0

        def all_well(count: int, most_s: float) -> None:
            nonlocal asked
            began = time.monotonic()
            assert set(ask_in_a_row(gateway, [{}] * count)) == {(200, json.dumps(RIGHT).encode())}
            assert time.monotonic() - began < most_s  # of one copy's answer: nobody waited for any
            asked += count

        second.control(script={"delay_ms": 3000})
        all_well(50, 3)
        # Two are asked, for a second each, and two more wait; what came beyond that was not copied.
        lines = wait_for(gateway, lambda lines: sum(line.get("left_out", 1) for line in lines) == asked)
        pairs = [line for line in lines if "left_out" not in line]
        assert 4 <= len(pairs) <= 12
        assert {line["difference"]["what"] for line in pairs} == {"no answer: no answer in 1 s"}
        assert json.loads(base64.b64decode(pairs[0]["primary"]["body"])) == RIGHT
        second.kill()
        all_well(2, 3)
        wait_for(gateway, lambda lines: "ConnectionError" in json.dumps(lines))
        process = background.find(mirror.MODULE, gateway.gateway.folder)
        assert process
        process.suspend()  # takes connections, says nothing
        all_well(10, 3)
        process.kill()
        all_well(50, 3)
        assert not gateway.gateway.alive
        assert len(gateway.fakes[0].requests()) == asked
