"""The servers that are compared: this kit's handler in both ways to batch, and the article's on TorchServe's defaults.

Builds their archives into a folder of the benchmark's own and runs them on ports of its own.
Knows nothing of what they are asked.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from archives import assets, build
from deploy import local, readiness
from deploy.render import Ports, ServerOptions
from loadtest.llama_clients import Endpoint
from loadtest.stock_servers import AnyAnswer
from model_configs.archive_files import CONFIG_FILE, MANIFEST_FILE, read_golden
from model_configs.schema import ModelConfig
from servekit.settings import LlamaSettings

VERSION = "1.0"
PORTS = {"continuous": 18480, "micro": 18490, "stock": 18500}
SHARED: dict[str, Any] = {"minWorkers": 1, "maxWorkers": 1, "responseTimeout": 600}
SEED_PARALLELISM = {"preprocess": 2, "inference": 1, "postprocess": 2}
STOCK_HANDLER = Path(__file__).with_name("stock_llama_handler.py")


def config(
    name: str, weights: Path, torchserve: dict[str, Any], micro_batch_size: int | None = None
) -> ModelConfig[LlamaSettings]:
    """The YAML that a user would write."""
    document: dict[str, Any] = {
        "model": {
            "name": name, "version": VERSION, "handler": "llama_handler.py", "format": "no-archive",
            "assets": {"path": str(weights)},
        },
        "torchserve": {**SHARED, **torchserve},
        "handler": {"model_checkpoint_dir": "model", "max_length": 512},
    }  # fmt: skip
    if micro_batch_size:
        document["micro_batching"] = {"micro_batch_size": micro_batch_size, "parallelism": SEED_PARALLELISM}
    return ModelConfig[LlamaSettings].model_validate(document)


def artefacts(weights: Path, store: Path) -> Path:
    """The kernels that the archives hold, for engines in this process."""
    return assets.prepare(config("continuous", weights, {}), weights, store / ".prepared")


@contextmanager
def continuous(weights: Path, store: Path, rows: int) -> Iterator[Endpoint]:
    """This kit, continuous batching."""
    serving = {"batchSize": rows, "continuousBatching": True, "jobQueueSize": 1000}
    with _kit(config("continuous", weights, serving), store) as endpoint:
        yield endpoint


@contextmanager
def micro_batching(weights: Path, store: Path, rows: int, delay_ms: int) -> Iterator[Endpoint]:
    """This kit, one micro-batch as large as the batch: rows of a batch run together, and end together."""
    serving = {"batchSize": rows, "maxBatchDelay": delay_ms, "jobQueueSize": 1000}
    with _kit(config("micro", weights, serving, rows), store) as endpoint:
        yield endpoint


@contextmanager
def stock(weights: Path, store: Path, rows: int, micro_batch_size: int) -> Iterator[Endpoint]:
    """The article's handler on TorchServe's default settings and logging."""
    name = "stock"
    chosen = config(name, weights, {"batchSize": rows, "maxBatchDelay": 100}, micro_batch_size)
    model = chosen.model.model_copy(update={"handler": STOCK_HANDLER.name})
    chosen = chosen.model_copy(update={"model": model})
    folder = chosen.handler.model_checkpoint_dir
    target = store / name
    shutil.rmtree(target, ignore_errors=True)
    entries: build.Entries = {
        STOCK_HANDLER.name: STOCK_HANDLER,
        CONFIG_FILE: chosen.model_config_yaml().encode(),
        MANIFEST_FILE: build.manifest(chosen).encode(),
        **{f"{folder}/{file}": weights / file for file in assets.model_files(weights, chosen)},
    }
    build.write_folder(entries, target)
    warm_up = AnyAnswer({"prompt": "The with statement", "max_new_tokens": 4}, "text", [], 0.0)
    served = local.ServedModel(name, VERSION, name, 1, chosen.torchserve.startupTimeout, warm_up, pinning="off")
    with _running(ServerOptions(store, Ports(PORTS[name]), stock=True), served, "") as endpoint:
        yield endpoint


@contextmanager
def _kit(chosen: ModelConfig[LlamaSettings], store: Path) -> Iterator[Endpoint]:
    archive = build.build(chosen, store)
    served = local.served_model(chosen, archive.path.name, read_golden(archive.path))
    with _running(ServerOptions(store, Ports(PORTS[archive.name])), served, f"/{VERSION}/v1/completions") as endpoint:
        yield endpoint


@contextmanager
def _running(options: ServerOptions, served: local.ServedModel, path: str) -> Iterator[Endpoint]:
    server = local.start(options, [served])
    try:
        readiness.wait_ready(server)
        yield Endpoint(server.port, f"/predictions/{served.name}{path}", server.token("inference"))
    finally:
        local.stop(server)
