"""The openai engine in a real TorchServe: a slow upstream is waited for, longer than responseTimeout allows a worker."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy import local
from tests.e2e.conftest import serving_file
from tests.fakes.tiny_llama import make_tiny_llama
from tests.handlers.test_openai_engine import Exchange, Upstream

PORT = 18780
RESPONSE_TIMEOUT_S = 3
SILENCE_S = 8.0
YAML = """
model: {{name: far, version: "1.0", handler: llama_handler.py, format: no-archive, assets: {{path: {folder}}}}}
torchserve: {{batchSize: 4, continuousBatching: true, responseTimeout: {timeout}, startupTimeout: 120}}
handler: {{heartbeat_s: 0.5, upstream: {{base_url: "{url}", timeout_s: 60}}}}
"""


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    def answer(exchange: Exchange, body: dict[str, Any]) -> None:
        exchange.begin()
        exchange.chunk("so ")
        time.sleep(SILENCE_S if body["max_tokens"] == 7 else 0)
        exchange.chunk("far", "stop")
        exchange.end()

    with Upstream() as server:
        server.scripts = defaultdict(lambda: answer)
        server.models = (200, {"object": "list", "data": [{"id": "far", "max_model_len": 128}]})
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield server
        server.shutdown()
        serving.join()


@pytest.mark.slow
def test_heartbeats_keep_a_slow_stream_alive(upstream: Upstream, tmp_path: Path) -> None:
    folder = make_tiny_llama(tmp_path / "model")
    yaml = YAML.format(folder=folder, timeout=RESPONSE_TIMEOUT_S, url=upstream.url)
    with serving_file(yaml, tmp_path, PORT) as server:
        pids = [worker["pid"] for worker in described(server)]
        started = time.monotonic()
        reply = server.inference().post("/predictions/far", b'{"inputs": "hello", "parameters": {"max_new_tokens": 7}}')
        assert reply.body == b'[{"generated_text":"so far"}]'
        assert time.monotonic() - started > SILENCE_S > 2 * RESPONSE_TIMEOUT_S
        assert [worker["pid"] for worker in described(server)] == pids


def described(server: local.Server) -> list[dict[str, Any]]:
    workers: list[dict[str, Any]] = json.loads(server.management().get("/models/far").body)[0]["workers"]
    return workers
