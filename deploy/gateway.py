"""The gateway: nginx in front of TorchServe, as options and as the configuration that is rendered from them.

Only inference paths are open; everything else is 404. A client's path never reaches TorchServe as the client wrote it
unless it is one of those listed here letter by letter. Knows nothing of processes; gateway_process.py starts them:

    options = GatewayOptions(folder, port=8080, host="0.0.0.0", models=(PublicModel("minilm", "1.0", openai=(…)),))
    gateway = gateway_process.start(options, [server])   # listens at once; /ping says 503 until models are proven
    gateway.alive
    gateway.stop(timeout_s=20)                           # /ready says 503, requests under way end, then processes
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from deploy.render import LOOPBACK
from model_configs.gateway import GatewaySettings

OPENAI_PATHS = {
    "embedding_handler.py": ("embeddings",),
    "llama_handler.py": ("completions", "chat/completions"),
    "retrieval_handler.py": ("completions", "chat/completions"),
}
"""What a handler answers below /v1/, beside the list of models."""
SPARE_S = 5
"""That the gateway waits beyond TorchServe's own responseTimeout, so that TorchServe's error comes first."""


@dataclass(frozen=True)
class PublicModel:
    """A model that clients may ask. openai: what it answers below /v1/, of OPENAI_PATHS."""

    name: str
    openai: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tls:
    """PEM files."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class GatewayOptions:
    """What an nginx is rendered from.

    folder: of the gateway's own; configuration, sockets, logs, pids and temporary files are in it, and it is nobody
    else's to read.
    """

    folder: Path
    port: int
    models: tuple[PublicModel, ...]
    settings: GatewaySettings = GatewaySettings()
    host: str = LOOPBACK
    slots: int = 1
    """TorchServes behind it, at the same time."""
    keys: tuple[Path, ...] = field(default=())
    """Folders of keys, made by `kit.py keys`; with none of them clients need no key (SageMaker asks for its own)."""
    tls: Tls | None = None
    response_timeout_s: int = 60 + SPARE_S
    """Longest silence of TorchServe."""
    access_log: str = "logs/access.jsonl"
    """/dev/stdout in a container."""


def nginx_conf(options: GatewayOptions) -> str:
    """nginx.conf of the gateway itself. Raises KitError where options do not go together."""
    raise NotImplementedError
