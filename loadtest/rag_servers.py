"""The servers that are compared: this kit's retrieval, and the article's pipeline on TorchServe's defaults.

Builds the latter's archive into a folder of the benchmark's own and runs both on ports of their own. Knows nothing of
what they are asked.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from archives import assets, build
from deploy import local, readiness
from deploy.render import LOOPBACK, Ports, ServerOptions
from loadtest import serving
from loadtest.llama_servers import AnyAnswer
from loadtest.plan import Target
from loadtest.rag_sides import PEER, python
from loadtest.serving import Served
from model_configs.archive_files import CONFIG_FILE, MANIFEST_FILE
from model_configs.schema import AnyModelConfig

PORTS = {"kit": 18620, "stock-rag": 18630, "stock-rag-batched": 18640}
STOCK_HANDLER = Path(__file__).with_name("stock_rag_handler.py")
STOCK_SETTINGS = {"minWorkers": 1, "maxWorkers": 1, "batchSize": 16, "maxBatchDelay": 100, "startupTimeout": 600}
"""The article's batch of 16 and TorchServe's own delay; the index is made at each start, and takes its time."""


@contextmanager
def kit(config: AnyModelConfig) -> Iterator[Served]:
    """This kit. Its index has to be there."""
    with serving.started(config, PORTS["kit"]) as served:
        yield Served(config, served.target)


@contextmanager
def stock(config: AnyModelConfig, store: Path, *, batched: bool) -> Iterator[Served]:
    """The article's pipeline with default settings and logging; batched: embeds a batch's queries in one call."""
    name = "stock-rag-batched" if batched else "stock-rag"
    settings = {"model": str(assets.find_weights(config)), "batched": batched}
    model = config.model.model_copy(update={"name": name, "handler": STOCK_HANDLER.name})
    chosen = config.model_copy(update={"model": model})
    target = store / name
    shutil.rmtree(target, ignore_errors=True)
    entries: build.Entries = {
        STOCK_HANDLER.name: STOCK_HANDLER,
        PEER.name: PEER,
        CONFIG_FILE: yaml.safe_dump(STOCK_SETTINGS | {"handler": settings}).encode(),
        MANIFEST_FILE: build.manifest(chosen).encode(),
    }
    build.write_folder(entries, target)
    warm_up = AnyAnswer({"query": "What does the with statement do?", "k": 5}, "text", [], 0.0)
    version, timeout_s = chosen.model.version, STOCK_SETTINGS["startupTimeout"]
    served = local.ServedModel(name, version, name, 1, timeout_s, warm_up, pinning="off")
    with _torchserve_of(python()):
        server = local.start(ServerOptions(store, Ports(PORTS[name]), stock=True), [served])
    try:
        readiness.wait_ready(server)
        url, key_file = f"http://{LOOPBACK}:{server.port}", str(server.folder / local.KEY_FILE)
        yield Served(chosen, Target(kind="predictions", url=url, model=name, version=version, token_file=key_file))
    finally:
        local.stop(server)


@contextmanager
def _torchserve_of(executable: Path) -> Iterator[None]:
    """Meanwhile local.start takes the TorchServe beside another Python, whose packages the workers then have."""
    own, sys.executable = sys.executable, str(executable)
    try:
        yield
    finally:
        sys.executable = own
