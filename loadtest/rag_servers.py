"""The servers that are compared: this kit's retrieval, and the article's pipeline on TorchServe's defaults.

Runs both on ports of their own. Knows nothing of what they are asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from archives import assets
from loadtest import serving, stock_servers
from loadtest.rag_sides import PEER, python
from loadtest.serving import Served
from loadtest.stock_servers import StockModel
from model_configs.schema import AnyModelConfig

PORTS = {"kit": 18620, "stock-rag": 18630, "stock-rag-batched": 18640}
STOCK_HANDLER = Path(__file__).with_name("stock_rag_handler.py")
STOCK_SETTINGS = {"minWorkers": 1, "maxWorkers": 1, "batchSize": 16, "maxBatchDelay": 100, "startupTimeout": 600}
"""The article's batch of 16 and TorchServe's own delay; the index is made at each start, and takes its time."""
QUERY: dict[str, object] = {"query": "What does the with statement do?", "k": 5}


@contextmanager
def kit(config: AnyModelConfig) -> Iterator[Served]:
    """This kit. Its index has to be there."""
    with serving.started(config, PORTS["kit"]) as served:
        yield Served(config, served.target)


@contextmanager
def stock(config: AnyModelConfig, store: Path, *, batched: bool) -> Iterator[Served]:
    """The article's pipeline with default settings and logging; batched: embeds a batch's queries in one call."""
    name = "stock-rag-batched" if batched else "stock-rag"
    settings = {**STOCK_SETTINGS, "handler": {"model": str(assets.find_weights(config)), "batched": batched}}
    model = StockModel(name, STOCK_HANDLER, settings, QUERY, [PEER])
    with stock_servers.running(config, model, store, PORTS[name], python=python()) as (chosen, target, _):
        yield Served(chosen, target)
