"""The gateway: nginx in front of TorchServe, as options and as the configuration that is rendered from them.

Only inference paths are open; everything else is 404. A client's path never reaches TorchServe as the client wrote it
unless it is one of those listed here letter by letter. Knows nothing of processes; gateway_process.py starts them:

    options = GatewayOptions(folder, port=8080, models=(PublicModel("minilm", ("embeddings",)),), host="0.0.0.0")
    gateway = gateway_process.start(options, [server])   # listens at once; /ping says 503 until models are proven
    gateway.alive
    gateway.stop(timeout_s=20)                           # /ready says 503, requests under way end, then processes
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from deploy.health import ACCESS_LOG
from deploy.nginx import GATEWAY
from deploy.render import LOOPBACK, TEMPLATES
from model_configs.errors import KitError
from model_configs.gateway import GatewaySettings

SCRIPT = "gateway.js"
OPENAI_PATHS = {
    "embedding_handler.py": ("embeddings",),
    "llama_handler.py": ("completions", "chat/completions"),
    "retrieval_handler.py": ("completions", "chat/completions"),
}
"""What a handler answers below /v1/, beside the list of models."""
SPARE_S = 5
"""That the gateway waits beyond TorchServe's own responseTimeout, so that TorchServe's error comes first."""
WORKERS = 2
"""Of nginx. One serves more requests than a TorchServe answers; while it writes to a disk the other goes on."""
VERSION = "[0-9A-Za-z][0-9A-Za-z._-]*"
ERRORS = {
    400: ("invalid_request_error", "bad_request", "this is no valid HTTP request"),
    401: ("invalid_request_error", "invalid_api_key", "a valid key is needed, as Authorization: Bearer KEY"),
    403: ("permission_error", "model_not_allowed", "this key may not use this model"),
    404: ("invalid_request_error", "not_found", "there is nothing at this path"),
    405: ("invalid_request_error", "method_not_allowed", "this path takes another method"),
    413: ("invalid_request_error", "body_too_large", "the body is larger than {max_body_bytes} bytes"),
    414: ("invalid_request_error", "uri_too_long", "the path is too long"),
    429: ("rate_limit_error", "rate_limit_exceeded", "too many requests; try again"),
    431: ("invalid_request_error", "headers_too_large", "the headers are too large"),
    501: ("invalid_request_error", "not_implemented", "this transfer encoding is not known here"),
    502: ("server_error", "bad_gateway", "the model's server is gone or ended the connection"),
    503: ("server_error", "unavailable", "the model cannot answer now; try again"),
    504: ("server_error", "timeout", "the model did not answer in time"),
    505: ("invalid_request_error", "http_version", "HTTP/1.1 is spoken here"),
}
"""By status: OpenAI's type and code, and the message."""
DEFAULT_ERROR = ("server_error", "error", "this request could not be answered")


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

    folder: of the gateway's own, absolute; configuration, sockets, logs, pids and temporary files are in it, and it is
    nobody else's to read.
    """

    folder: Path
    port: int
    models: tuple[PublicModel, ...]
    settings: GatewaySettings = field(default_factory=GatewaySettings)
    host: str = LOOPBACK
    slots: int = 1
    """TorchServes behind it, at the same time."""
    keys: tuple[Path, ...] = ()
    """Folders of keys, made by `kit.py keys`; with none of them clients need no key (SageMaker asks for its own)."""
    tls: Tls | None = None
    response_timeout_s: int = 60 + SPARE_S
    """Longest silence of TorchServe."""
    log_to_output: bool = False
    """Access lines to standard output and errors to standard error, as containers do; else to files in logs/."""


@dataclass(frozen=True)
class Route:
    """A public path. location: as nginx matches it; target: what TorchServe is asked, or the reply of `models`."""

    location: str
    model: str
    methods: str
    target: str
    handler: str = "inference"


@dataclass(frozen=True)
class VersionedModel:
    """A model as one TorchServe has it."""

    name: str
    version: str


def routes(models: Sequence[PublicModel]) -> list[Route]:
    """Every path that leads to a model. Those that name none are there when they can mean only one."""
    found = []
    for model in models:
        path = f"/predictions/{re.escape(model.name)}"
        found.append(Route(_regex(f"^{path}(?:/{VERSION})?$"), model.name, "POST, PUT", "$uri"))
        if model.openai:
            paths = "|".join(model.openai)
            found.append(Route(_regex(f"^{path}/{VERSION}/v1/(?:{paths})$"), model.name, "POST", "$uri"))
            found.append(_models_route(_regex(f"^{path}/{VERSION}/v1/models$"), model.name, [model]))
    if len(models) == 1:
        found.append(Route("= /invocations", models[0].name, "POST", f"/predictions/{models[0].name}"))
    for dialect in sorted({each for model in models for each in model.openai}):
        able = [model for model in models if dialect in model.openai]
        if len(able) == 1:
            # The nginx before a TorchServe knows which version stands for `-`.
            target = f"/predictions/{able[0].name}/-/v1/{dialect}"
            found.append(Route(f"= /v1/{dialect}", able[0].name, "POST", target))
    if any(model.openai for model in models):
        found.append(_models_route("= /v1/models", "", models))
    return found


def nginx_conf(options: GatewayOptions, js_module: Path) -> str:
    """nginx.conf of the gateway itself. Raises KitError for paths and names that it cannot hold."""
    settings = options.settings
    mirror = settings.mirror
    wrong = [folder for folder in options.keys if ":" in str(folder)]
    if wrong:
        raise KitError(f"{wrong[0]}: a folder of keys may not have a colon in its name", "keep keys somewhere else")
    limits = []
    if settings.requests_per_minute:
        burst = f" burst={settings.burst} nodelay" if settings.burst else ""
        limits.append(f"limit_req zone=requests{burst};")
    if settings.max_concurrent:
        limits.append(f"limit_conn concurrent {settings.max_concurrent};")
    return _render(
        "nginx.conf.j2",
        **_process(GATEWAY, options, js_module, WORKERS),
        options=options,
        listen=f"[{options.host}]:{options.port}" if ":" in options.host else f"{options.host}:{options.port}",
        access_log="/dev/stdout" if options.log_to_output else ACCESS_LOG,
        routes=routes(options.models),
        tidy="if ($uri != $path) { return 404; }",
        checks="\n            ".join(
            (
                "if ($verdict = 401) { return 401; }",
                "if ($verdict = 403) { return 403; }",
                'if ($allowed = "") { return 405; }',
            )
        ),
        limits=" ".join(limits),
        mirror=mirror,
        sampled="*" if mirror and mirror.sample == 1 else f"{100 * mirror.sample:.2f}%" if mirror else "",
    )


def torchserve_conf(
    options: GatewayOptions, name: str, port: int, token: str | None, models: Sequence[VersionedModel], js_module: Path
) -> str:
    """NAME.conf of the nginx before one TorchServe. Raises KitError."""
    return _render(
        "nginx_torchserve.conf.j2",
        **_process(name, options, js_module, 1),
        port=port,
        token=token,
        models=models,
        response_timeout_s=options.response_timeout_s,
    )


def _process(name: str, options: GatewayOptions, js_module: Path, workers: int) -> dict[str, Any]:
    """What both kinds of nginx are told."""
    root = os.geteuid() == 0
    texts = {
        status: (kind, code, message.format(max_body_bytes=options.settings.max_body_bytes))
        for status, (kind, code, message) in ERRORS.items()
    } | {"default": DEFAULT_ERROR}
    return {
        "name": name,
        "js_module": js_module,
        "user": f"{pwd.getpwuid(0).pw_name} {grp.getgrgid(os.getegid()).gr_name}" if root else "",
        "workers": workers,
        "drain_timeout_s": options.settings.drain_timeout_s,
        "folder": options.folder,
        "error_log": "stderr" if options.log_to_output else f"logs/{name}.log",
        "error_maps": {
            f"error_{part}": {status: text[place] for status, text in texts.items()}
            for place, part in enumerate(("type", "code", "message"))
        },
    }


def _models_route(location: str, model: str, listed: Sequence[PublicModel]) -> Route:
    data = [{"id": each.name, "object": "model", "created": 0, "owned_by": "servekit"} for each in listed]
    reply = json.dumps({"object": "list", "data": data}, separators=(",", ":"))
    return Route(location, model, "GET", _quoted(reply), "models")


def _regex(pattern: str) -> str:
    return f'~ "{pattern}"'


def _quoted(value: object) -> str:
    """A word of nginx's configuration. Raises KitError for what cannot be one."""
    text = str(value)
    if "$" in text or not text.isprintable():
        raise KitError(f"{text!r} cannot stand in nginx's configuration", "choose a name without $ and line ends")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _render(template: str, **values: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quoted"] = _quoted
    environment.filters["regex"] = re.escape
    return environment.get_template(template).render(**values)
