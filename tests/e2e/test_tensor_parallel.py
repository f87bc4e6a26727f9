"""A model split over two processes by TorchServe's own torchrun: the same text as in one, and life after a death."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from deploy import local
from deploy.http_client import Unreachable
from tests.e2e.conftest import serving_file
from tests.fakes.tiny_llama import make_tiny_llama

PORT = 18680
YAML = """
model: {{name: tiny, version: "1.0", handler: llama_handler.py, format: no-archive, assets: {{path: {folder}}}}}
torchserve:
  batchSize: 4
  continuousBatching: true
  responseTimeout: 30
  startupTimeout: 120
  deviceType: cpu
  parallelType: tp
  torchrun: {{nproc-per-node: 2}}
handler: {{prefill_chunk: 16, threads: 1}}
"""
BODY = b'{"inputs": "hello", "parameters": {"max_new_tokens": 40, "ignore_eos": true}}'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[local.Server]:
    with serving_file(YAML.format(folder=make_tiny_llama(tmp_path / "model")), tmp_path, PORT) as started:
        yield started


def ranks(server: local.Server) -> list[psutil.Process]:
    processes = psutil.Process(server.pid).children(recursive=True)
    found = [process for process in processes if "model_service_worker.py" in " ".join(process.cmdline())]
    return [process for process in found if "torchrun" not in " ".join(process.cmdline())]


@pytest.mark.slow
def test_two_ranks_answer_as_one_and_start_again(server: local.Server) -> None:
    # Its golden request has been asked: transformers' answer, computed in one process.
    client = server.inference()
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: server.inference().post("/predictions/tiny", BODY), range(4)))
    assert {reply.status for reply in replies} == {200}
    assert len({reply.body for reply in replies}) == 1

    assert len(ranks(server)) == 2
    ranks(server)[1].kill()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(1)
        try:
            if client.post("/predictions/tiny", BODY).body == replies[0].body:
                return
        except Unreachable:
            continue
    pytest.fail(f"no answer after a rank was killed:\n{local.tail(server.folder)}")
