"""The Inferentia2 article's own model-config.yaml and split checkpoint, served over the stand-in of its library."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from llama_handler import LlamaHandler
from servekit.engines import load_engine
from servekit.generation import build
from servekit.settings import LlamaSettings
from tests.fakes import neuron_image
from tests.fakes.frontend import Client, Frontend
from tests.fakes.tiny_llama import make_tiny_llama, make_tokenizer

# The article's keys and values; its comments are left out.
MODEL_CONFIG = """
minWorkers: 1
maxWorkers: 1
maxBatchDelay: 100
responseTimeout: 10800
batchSize: 16

handler:
    model_checkpoint_dir: "llama-2-13b-split"
    amp: "bf16"
    tp_degree: 12
    max_length: 100

micro_batching:
    micro_batch_size: 1
    parallelism:
        preprocess: 2
        inference: 1
        postprocess: 2
"""


def test_an_archive_is_compiled_without_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    neuron_image.enter(monkeypatch)
    settings = LlamaSettings.model_validate({"tp_degree": 2, "amp": "f32", "max_batch": 2, "max_length": 64})
    weights, out = make_tiny_llama(tmp_path / "weights"), tmp_path / "archive" / "artefacts"
    out.mkdir(parents=True)
    build.main(str(weights), str(out), "tiny", settings.model_dump_json(exclude_unset=True))
    shutil.copytree(weights, tmp_path / "archive" / "model")
    engine = load_engine("tiny", tmp_path / "archive", settings, rows=2, device="cpu", place=0, workers=1)
    assert list((out / "neuron").glob("*.neff"))
    assert engine._model.compiled == []  # type: ignore[attr-defined]
    engine.close()


def test_an_engine_with_less_room_than_a_micro_batch_answers_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    neuron_image.enter(monkeypatch)
    make_tiny_llama(tmp_path / "model")
    settings = {"tp_degree": 2, "amp": "f32", "max_length": 64, "max_batch": 1, "default_max_new_tokens": 5}
    config = {"batchSize": 4, "handler": settings, "micro_batching": {"micro_batch_size": 4}}
    handler = LlamaHandler()
    frontend = Frontend(handler, tmp_path, config)
    handler.initialize(frontend.context)
    clients = [Client(json.dumps({"inputs": f"prompt {n}"}).encode()) for n in range(4)]
    frontend.ask(*clients)
    assert [client.status for client in clients] == [200] * 4
    assert all(json.loads(client.text)[0]["generated_text"] for client in clients)
    handler.pipeline.close(5.0)
    handler.engine.close()


def test_the_articles_configuration_is_accepted_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    neuron_image.enter(monkeypatch)
    monkeypatch.setenv("NEURONX_CACHE", "on")
    monkeypatch.setenv("NEURONX_DUMP_TO", f"{tmp_path}/neuron_cache")
    folder = tmp_path / "llama-2-13b-split"
    model = AutoModelForCausalLM.from_pretrained(make_tiny_llama(tmp_path / "whole"), dtype=torch.bfloat16)
    import_module("transformers_neuronx.module").save_pretrained_split(model, folder)
    make_tokenizer().save_pretrained(folder)

    config = yaml.safe_load(MODEL_CONFIG)
    handler = LlamaHandler()
    frontend = Frontend(handler, tmp_path, config)
    handler.initialize(frontend.context)
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "NEURONX_CACHE does nothing" in said
    assert "NEURONX_DUMP_TO" in said

    clients = [Client(f"prompt {n}".encode(), {"content-type": "text/plain"}) for n in range(4)]
    frontend.ask(*clients)
    assert all(client.status == 200 for client in clients)
    assert all(client.text for client in clients)
    assert len(clients[0].chunks) > 10
    # Prompt and new tokens together are max_length.
    long = Client(json.dumps({"inputs": "x" * 120}).encode())
    frontend.ask(long)
    assert long.status == 413
    assert "100" in json.loads(long.text)["error"]["message"]
    handler.pipeline.close(5.0)
    handler.engine.close()
