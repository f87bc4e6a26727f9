"""TorchServe as it comes, with a plain handler: what its users have who follow an article.

Default settings and logging but for addresses and tokens. Knows nothing of what a handler does.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from archives import build
from deploy import local, readiness
from deploy.render import LOOPBACK, Ports, ServerOptions
from loadtest.plan import Target
from model_configs.archive_files import CONFIG_FILE, MANIFEST_FILE
from model_configs.schema import AnyModelConfig
from servekit.golden import Golden


@dataclass(frozen=True)
class AnyAnswer(Golden):
    """A request that warms a worker up and is right whatever comes: stock handlers answer in forms of their own."""

    def verdict(self, reply: bytes) -> str:
        """What is wrong with a reply."""
        return "" if reply else "an empty answer"


@dataclass(frozen=True)
class StockModel:
    """A model of a stock server. handler: its file; beside: files that it imports.

    settings: of model-config.yaml, in TorchServe's spelling, with startupTimeout and what the handler reads. body: of
    the request that warms it up.
    """

    name: str
    handler: Path
    settings: Mapping[str, Any]
    body: dict[str, object]
    beside: Sequence[Path] = ()


@contextmanager
def running(
    config: AnyModelConfig, stock: StockModel, store: Path, port: int, *, python: Path | None = None, auth: bool = True
) -> Iterator[tuple[AnyModelConfig, Target, local.Server]]:
    """The server, once it answers. config: of the kit's model that it stands in for. store: where its archive is made.

    python: whose TorchServe and packages it has, if not this one's. auth: tokens, which end after an hour.
    """
    model = config.model.model_copy(update={"name": stock.name, "handler": stock.handler.name})
    chosen = config.model_copy(update={"model": model})
    target = store / stock.name
    shutil.rmtree(target, ignore_errors=True)
    entries: build.Entries = {
        **{file.name: file for file in (stock.handler, *stock.beside)},
        CONFIG_FILE: yaml.safe_dump(dict(stock.settings)).encode(),
        MANIFEST_FILE: build.manifest(chosen).encode(),
    }
    build.write_folder(entries, target)
    version, warm_up = chosen.model.version, AnyAnswer(stock.body, "text", [], 0.0)
    timeout_s = stock.settings["startupTimeout"]
    served = local.ServedModel(stock.name, version, stock.name, 1, timeout_s, warm_up, pinning="off")
    with _torchserve_of(python):
        server = local.start(ServerOptions(store, Ports(port), auth=auth, stock=True), [served])
    try:
        readiness.wait_ready(server)
        key_file = str(server.folder / local.KEY_FILE) if auth else None
        url = f"http://{LOOPBACK}:{server.port}"
        yield (
            chosen,
            Target(kind="predictions", url=url, model=stock.name, version=version, token_file=key_file),
            server,
        )
    finally:
        local.stop(server)


@contextmanager
def _torchserve_of(python: Path | None) -> Iterator[None]:
    """Meanwhile local.start takes the TorchServe beside another Python, whose packages the workers then have."""
    own, sys.executable = sys.executable, str(python or sys.executable)
    try:
        yield
    finally:
        sys.executable = own
