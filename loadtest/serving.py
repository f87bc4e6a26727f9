"""The endpoint that a run asks: a server that is there already, or one that is started for the run and stopped after.

Knows nothing of load.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from archives import STORE, build
from deploy import RUN_DIR, local, readiness
from deploy.render import Ports, ServerOptions
from loadtest.plan import Target
from model_configs.archive_files import read_golden
from model_configs.errors import KitError
from model_configs.loadtest import TargetKind
from model_configs.schema import AnyModelConfig

PORT = 18880
TARGETS: dict[str, TargetKind] = {
    "classifier_handler.py": "predictions",
    "embedding_handler.py": "predictions",
    "llama_handler.py": "openai-completions",
    "retrieval_handler.py": "predictions",
}
"""What is asked of a handler's models when their YAML does not say."""
STREAMING: tuple[TargetKind, ...] = ("openai-completions", "openai-chat", "sagemaker-stream")
"""Targets that are asked for a stream unless the load test says otherwise."""


@dataclass(frozen=True)
class Served:
    """A model that answers. server: None when it is not one of this machine's own."""

    config: AnyModelConfig
    target: Target
    server: local.Server | None = None
    archive_sha256: str | None = None
    start_s: float | None = None
    """From starting the server to its first right answer; None when it ran already."""


def target_of(config: AnyModelConfig, url: str, token_file: Path | None) -> Target:
    """The endpoint of a model at a TorchServe's inference URL. Raises KitError when it has no loadtest section."""
    load = config.loadtest
    if load is None:
        raise KitError(f"{config.model.name} has no loadtest section", "see model_configs/minilm.yaml for one")
    kind = load.target or TARGETS[config.model.handler]
    generates = kind in STREAMING or config.model.handler == "llama_handler.py"
    return Target(
        kind=kind,
        url=url,
        model=config.model.name,
        version=config.model.version,
        token_file=str(token_file) if token_file else None,
        stream=generates if load.stream is None else load.stream,
    )


@contextmanager
def running_or_started(config: AnyModelConfig, port: int | None, say: Callable[[str], None]) -> Iterator[Served]:
    """The model's server of this machine, on this port if one is given; if there is none, one is started meanwhile."""
    found = [
        server
        for server in local.servers()
        if server.alive and server.is_at(port) and config.model.name in [m.name for m in server.models]
    ]
    if found:
        served = _served(config, found[0], None, None)
        # One TorchServe of several behind a gateway tells of its own part alone.
        shared = [server for server in found if server.front and server.front == found[0].front]
        yield replace(served, server=None) if len(shared) > 1 else served
        return
    with started(config, port or PORT, say=say) as served:
        yield served


@contextmanager
def started(
    config: AnyModelConfig,
    port: int,
    *,
    store: Path = STORE,
    run_dir: Path = RUN_DIR,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[Served]:
    """Build what has changed, start a server for this model alone, wait until it answers right; stop it at the end.

    say gets each line of its log. Raises KitError, Failed.
    """
    archive = build.build(config, store)
    model = local.served_model(config, archive.path.name, read_golden(archive.path))
    began = time.monotonic()
    server = local.start(ServerOptions(store=store, ports=Ports(port)), [model], run_dir)
    try:
        readiness.wait_ready(server, say)
        yield _served(config, server, archive.sha256, time.monotonic() - began)
    finally:
        local.stop(server)


def _served(config: AnyModelConfig, server: local.Server, sha256: str | None, start_s: float | None) -> Served:
    target = target_of(config, server.url, server.client_key_file)
    return Served(config, target, server, sha256, start_s)
