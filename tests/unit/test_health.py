"""What a reply to the golden request says, and the health process's own words. tests/e2e/test_gateway.py runs it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from deploy import health
from deploy.gateway import SCRIPT
from deploy.http_client import Response
from deploy.local import ServedModel, Server
from deploy.render import TEMPLATES
from servekit.golden import Golden

MODEL = ServedModel("m", "1.0", "m.mar", 1, 1, Golden({"inputs": ["a"]}, "vectors", [[0.6, 0.8]], 0.0001))
FULL = b'{"code": 503, "message": "Model \\"m\\" has no worker to serve inference request. Please use scale workers"}'


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (200, b"[[0.6, 0.8]]", ""),
        (200, b"[[0.8, 0.6]]", "answer 0: cosine"),
        (200, b"", "not JSON"),
        (500, b"Worker died.", "the golden request got 500: b'Worker died.'"),
        (507, b"out of memory", "the golden request got 507"),
        (503, b'{"message": "Prediction failed"}', "the golden request got 503"),
        (503, FULL, None),
        (429, b"", None),
    ],
)
def test_verdicts(status: int, body: bytes, told: str | None) -> None:
    found = health.verdict(MODEL, Response(status, body, {}))
    assert (found is None) == (told is None)
    if found is not None and told is not None:
        assert found.startswith(told)
        assert bool(found) == bool(told)


def test_no_process_no_state(tmp_path: Path) -> None:
    assert health.state(tmp_path) is None
    assert health.state(tmp_path / "nowhere") is None


def test_it_is_told_which_servers(tmp_path: Path) -> None:
    health.watch(tmp_path, [Server(1, 2, False, tmp_path / "2", tmp_path, ())])
    assert json.loads((tmp_path / health.SERVERS_FILE).read_text()) == {"servers": [str(tmp_path / "2")]}


def test_a_server_that_was_stopped_is_not_looked_at(tmp_path: Path) -> None:
    health.watch(tmp_path, [Server(1, 2, False, tmp_path / "2", tmp_path, ())])
    looking = health.Health(tmp_path)
    looking.reread()
    looking.write()
    document = health.state(tmp_path)
    assert document
    assert (document["ping"], document["problems"]) == (False, ["there is no TorchServe"])


def test_an_old_state_is_none(tmp_path: Path) -> None:
    file = tmp_path / health.STATE_FILE
    for age_s, is_known in ((1, True), (health.STALE_S + 1, False)):
        file.write_text(json.dumps({"written": time.time() - age_s, "ping": True, "problems": []}))
        assert (health.state(tmp_path) is not None) == is_known
    file.write_text("{")
    assert health.state(tmp_path) is None


def test_nginx_knows_the_same_files() -> None:
    script = (TEMPLATES / SCRIPT).read_text()
    assert f"STATE_FILE = '{health.STATE_FILE}'" in script
    assert f"DRAINING_FILE = '{health.DRAINING_FILE}'" in script
    assert f"STALE_MS = {1000 * health.STALE_S:.0f};" in script
