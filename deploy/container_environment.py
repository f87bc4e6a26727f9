"""What a container's environment says, in one table: SageMaker's variables, TorchServe's, and the kit's own.

TorchServe itself reads none of them (enable_envvars_config is off): a row says where a value goes, or why it is not
followed. Knows nothing of models or processes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from model_configs.errors import KitError
from model_configs.gateway import GatewaySettings
from servekit.strict import closest, problems

SAGEMAKER_MODEL_DIR = "/opt/ml/model"
PLAIN_MODEL_DIR = "/models"
RUN_DIR = "/tmp/servekit"  # noqa: S108 - the one folder that a read-only container can write
DRAIN_TIMEOUT_S = 22
"""SageMaker kills a container 30 s after its SIGTERM; TorchServe takes some of them to end."""
LOG_LEVELS = {10: "debug", 20: "info", 30: "warn", 40: "error", 50: "fatal"}
"""Python's, which SAGEMAKER_CONTAINER_LOG_LEVEL counts in, as log4j's words."""
Read = Callable[[str], Any]


@dataclass(frozen=True)
class Row:
    """One variable that is followed. to: `container.KEY` of Environment, `torchserve.KEY` of the model's
    configuration, `properties.KEY` of config.properties; several, with spaces between, get the same value.

    read: from text to value; raises ValueError that says what was expected.
    """

    variable: str
    to: str
    read: Read


@dataclass(frozen=True)
class Environment:
    """A container's settings. torchserve: instead of what archives say; notes: lines about what is not followed."""

    host: str = "0.0.0.0"  # noqa: S104 - a container's own address is not known beforehand
    port: int = 8080
    safe_ports: range | None = None
    """Where listeners on loopback may be, if not anywhere."""
    metrics_port: int | None = None
    """Where Prometheus may scrape from outside; nowhere if None."""
    log_level: str = "warn"
    model_dir: Path | None = None
    run_dir: Path = Path(RUN_DIR)
    keys_dir: Path | None = None
    gateway: GatewaySettings = field(default_factory=GatewaySettings)
    drain_delay_s: int = 0
    """How long requests are still taken after a SIGTERM, with /ready at 503: for balancers that hear of it late."""
    drain_timeout_s: int = DRAIN_TIMEOUT_S
    """In which requests under way may end after that."""
    torchserve: Mapping[str, Any] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    given_by: Mapping[str, str] = field(default_factory=dict)
    """The variable that gave each key of torchserve."""
    notes: tuple[str, ...] = ()


def whole(least: int, most: int | None = None) -> Read:
    """Reads a whole number between these."""

    def read(text: str) -> int:
        value = int(text) if re.fullmatch(r"[+-]?\d{1,18}", text) else None
        if value is None or value < least or (most is not None and value > most):
            raise ValueError(f"a whole number from {least}" + (f" to {most}" if most is not None else ""))
        return value

    return read


def port_range(text: str) -> range:
    """First and last port, as in 9000-9999."""
    match = re.fullmatch(r"(\d{1,5})-(\d{1,5})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]) <= 65535:
        raise ValueError("two ports, as in 9000-9999")
    return range(int(match[1]), int(match[2]) + 1)


def gateway_settings(text: str) -> GatewaySettings:
    """The section deploy.gateway of a model's YAML, as JSON."""
    try:
        return GatewaySettings.model_validate_json(text)
    except ValidationError as error:
        raise ValueError(f"deploy.gateway as JSON: {'; '.join(problems(error, GatewaySettings))}") from None


def log_level(text: str) -> str:
    """A level of Python's logging as log4j's word."""
    try:
        return LOG_LEVELS[int(text)]
    except (ValueError, KeyError):
        raise ValueError(f"one of {', '.join(map(str, LOG_LEVELS))}") from None


PORT, POSITIVE = whole(1, 65535), whole(1)
WORKERS = "torchserve.minWorkers torchserve.maxWorkers"
# Of two variables that give the same key, the later row wins: the one that says more precisely what is meant.
ROWS = (
    Row("SERVEKIT_MODEL_DIR", "container.model_dir", Path),
    Row("SERVEKIT_RUN_DIR", "container.run_dir", Path),
    Row("SERVEKIT_HOST", "container.host", str),
    Row("SERVEKIT_METRICS_PORT", "container.metrics_port", PORT),
    Row("SERVEKIT_KEYS_DIR", "container.keys_dir", Path),
    Row("SERVEKIT_GATEWAY", "container.gateway", gateway_settings),
    Row("SERVEKIT_DRAIN_DELAY_S", "container.drain_delay_s", whole(0)),
    Row("SERVEKIT_DRAIN_TIMEOUT_S", "container.drain_timeout_s", whole(0)),
    Row("SAGEMAKER_BIND_TO_PORT", "container.port", PORT),
    Row("SAGEMAKER_SAFE_PORT_RANGE", "container.safe_ports", port_range),
    Row("SAGEMAKER_CONTAINER_LOG_LEVEL", "container.log_level", log_level),
    Row("TS_DEFAULT_RESPONSE_TIMEOUT", "torchserve.responseTimeout", POSITIVE),
    Row("TS_DEFAULT_STARTUP_TIMEOUT", "torchserve.startupTimeout", POSITIVE),
    Row("TS_DEFAULT_WORKERS_PER_MODEL", WORKERS, POSITIVE),
    Row("TS_JOB_QUEUE_SIZE", "torchserve.jobQueueSize", POSITIVE),
    Row("TS_MAX_RESPONSE_SIZE", "properties.max_response_size", POSITIVE),
    Row("TS_NUMBER_OF_GPU", "properties.number_of_gpu", whole(0)),
    Row("TS_NUMBER_OF_NETTY_THREADS", "properties.number_of_netty_threads", whole(0)),
    Row("TS_NETTY_CLIENT_THREADS", "properties.netty_client_threads", whole(0)),
    Row("SAGEMAKER_MODEL_SERVER_TIMEOUT", "torchserve.responseTimeout", POSITIVE),
    Row("SAGEMAKER_MODEL_SERVER_WORKERS", WORKERS, POSITIVE),
    Row("SAGEMAKER_TS_BATCH_SIZE", "torchserve.batchSize", POSITIVE),
    Row("SAGEMAKER_TS_MAX_BATCH_DELAY", "torchserve.maxBatchDelay", whole(0)),
    Row("SAGEMAKER_TS_MIN_WORKERS", "torchserve.minWorkers", POSITIVE),
    Row("SAGEMAKER_TS_MAX_WORKERS", "torchserve.maxWorkers", POSITIVE),
    Row("SAGEMAKER_TS_RESPONSE_TIMEOUT", "torchserve.responseTimeout", POSITIVE),
)

_ADDRESSES = "TorchServe listens on loopback alone; SAGEMAKER_BIND_TO_PORT is the container's port"
_MODELS = "models are those of the model folder, from start to end"
_METRICS = "metrics are Prometheus's, as the kit declares them"
_TLS = "TLS ends before the container"
_HANDLER = "the handler is in the archive"
_PINNING = "handler.pinning of the model's YAML says how workers are placed"
_KEYS = "TorchServe asks for no token: nothing but the container's own gateway reaches it"
NOT_FOLLOWED = {
    "TS_INSTALL_PY_DEP_PER_MODEL": "dependencies are in the image; nothing is installed at start",
    **dict.fromkeys(("TS_INFERENCE_ADDRESS", "TS_MANAGEMENT_ADDRESS", "TS_METRICS_ADDRESS"), _ADDRESSES),
    **dict.fromkeys(("TS_GRPC_INFERENCE_ADDRESS", "TS_GRPC_MANAGEMENT_ADDRESS"), _ADDRESSES),
    **dict.fromkeys(("TS_GRPC_INFERENCE_PORT", "TS_GRPC_MANAGEMENT_PORT", "TS_OPEN_INFERENCE_PROTOCOL"), _ADDRESSES),
    **dict.fromkeys(("TS_LOAD_MODELS", "TS_MODEL_STORE", "TS_WORKFLOW_STORE", "TS_ALLOWED_URLS"), _MODELS),
    "TS_ENABLE_MODEL_API": _MODELS,
    **dict.fromkeys(("TS_METRICS_MODE", "TS_METRICS_CONFIG", "TS_MODEL_METRICS_AUTO_DETECT"), _METRICS),
    **dict.fromkeys(("TS_ENABLE_METRICS_API", "TS_DISABLE_SYSTEM_METRICS"), _METRICS),
    **dict.fromkeys(("TS_KEYSTORE", "TS_KEYSTORE_PASS", "TS_KEYSTORE_TYPE", "TS_CERTIFICATE_FILE"), _TLS),
    **dict.fromkeys(("TS_PRIVATE_KEY_FILE", "TS_ENABLE_GRPC_SSL"), _TLS),
    **dict.fromkeys(("TS_DISABLE_TOKEN_AUTHORIZATION", "TS_TOKEN_EXPIRATION_TIME_MIN"), _KEYS),
    **dict.fromkeys(("TS_CPU_LAUNCHER_ENABLE", "TS_CPU_LAUNCHER_ARGS"), _PINNING),
    **dict.fromkeys(("TS_IPEX_ENABLE", "TS_IPEX_GPU_ENABLE"), "handler.step of the model's YAML says what computes"),
    **dict.fromkeys(("TS_DEFAULT_SERVICE_HANDLER", "TS_SERVICE_ENVELOPE", "TS_DECODE_INPUT_REQUEST"), _HANDLER),
    **dict.fromkeys(("SAGEMAKER_PROGRAM", "SAGEMAKER_SUBMIT_DIRECTORY"), _HANDLER),
    "TS_CONFIG_FILE": "config.properties is written at start; the variables of this table change it",
    "TS_MAX_REQUEST_SIZE": "SERVEKIT_GATEWAY='{\"max_body_bytes\": …}' says how large a request may be",
    "TS_ASYNC_LOGGING": "access lines are written asynchronously already",
}
STRICT = re.compile("SAGEMAKER_TS_|SERVEKIT_")
"""A misspelt one of these is an error: it may be the one that names the keys."""
OTHERS = re.compile(
    r"SERVEKIT_(CACHE|LEASES|WORKERS|URL|TOKEN|EMULAT\w+|(\w+_)?SERVICE_(HOST|PORT)\w*|(\w+_)?PORT(_\d+_\w+)?)"
)
"""Read elsewhere in the kit, and what orchestrators make of a service that is called servekit."""


def read_environment(environ: Mapping[str, str]) -> Environment:
    """The settings of a container. Raises KitError for a value that cannot be meant; empty ones are as if not there."""
    given = {variable: text for variable, text in environ.items() if text.strip()}
    known = {row.variable for row in ROWS}
    for variable in sorted(given.keys() - known):
        if STRICT.match(variable) and not OTHERS.fullmatch(variable):
            near = closest(variable, known)
            raise KitError(f"{variable} is no setting", f"did you mean {near}?" if near else "see docker/README.md")
    if given.get("SAGEMAKER_MULTI_MODEL", "false").lower() != "false":
        raise KitError("SAGEMAKER_MULTI_MODEL: one model a container here", "an endpoint or a variant for each model")
    found: dict[str, dict[str, Any]] = {"container": {}, "torchserve": {}, "properties": {}}
    given_by = {}
    for row in ROWS:
        if row.variable not in given:
            continue
        text = given[row.variable].strip()
        try:
            value = row.read(text)
        except ValueError as error:
            raise KitError(f"{row.variable}={text}: not {error}", f"correct or unset {row.variable}") from None
        for target in row.to.split():
            section, key = target.split(".")
            found[section][key] = str(value) if section == "properties" else value
            if section == "torchserve":
                given_by[key] = row.variable
    notes = tuple(_note(variable) for variable in sorted(given.keys() - known) if _is_ours(variable))
    return Environment(
        **found["container"],
        torchserve=found["torchserve"],
        properties=found["properties"],
        given_by=given_by,
        notes=notes,
    )


def _is_ours(variable: str) -> bool:
    return variable.startswith("TS_") or variable in NOT_FOLLOWED


def _note(variable: str) -> str:
    # Orchestrators make variables of their services' names, and a service may be called ts: unknown is no error.
    return f"{variable} is not followed: {NOT_FOLLOWED.get(variable, 'it is no setting that is known here')}"
