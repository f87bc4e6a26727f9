"""The same archive in TorchServe 0.11.0's worker: `make test-torchserve-0.11` installs it beside the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from archives.build import Archive, build, unpack
from archives.worker import Request, Worker
from model_configs import ROOT
from model_configs.archive_files import read_golden
from model_configs.schema import load_model

TS_HOME = ROOT / ".venv" / "torchserve-0.11"
pytestmark = pytest.mark.skipif(not TS_HOME.exists(), reason="TorchServe 0.11.0 is not here: make test-torchserve-0.11")


def test_it_loads_and_answers_right(minilm_archive: Archive, tmp_path: Path) -> None:
    assert (TS_HOME / "ts" / "version.txt").read_text().strip() == "0.11.0"
    root = unpack(minilm_archive.path, tmp_path)
    golden = read_golden(minilm_archive.path)
    with Worker(root, ts_home=TS_HOME) as worker:
        worker.load("minilm")
        replies = worker.predict(
            [
                Request(b"\xff"),
                Request(json.dumps(golden.body).encode(), {"Content-Type": "application/json"}),
                Request(
                    b'{"input": "a", "model": "b"}', {"Content-Type": "application/json", "url_path": "v1/embeddings"}
                ),
            ]
        )
    assert [reply.status for reply in replies] == [400, 200, 404]
    assert golden.verdict(replies[1].body) == ""


def test_text_generation_streams_there_too(tmp_path: Path) -> None:
    """The Neuron images hold this TorchServe."""
    archive = build(load_model("pydoc-llama"))
    root = unpack(archive.path, tmp_path)
    golden = read_golden(archive.path)
    with Worker(root, ts_home=TS_HOME) as worker:
        worker.load("pydoc-llama")
        replies = worker.predict(
            [
                Request(b"{bad", {"Content-Type": "application/json"}),
                Request(json.dumps(golden.body).encode(), {"Content-Type": "application/json"}),
                Request(b"The with statement", {"Content-Type": "text/plain"}),
            ]
        )
    assert [reply.status for reply in replies] == [400, 200, 200]
    assert golden.verdict(replies[1].body) == ""
    assert len(replies[2].body) > 40
