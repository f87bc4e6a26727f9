"""TorchServe's three configuration files, from options: pure functions to text.

Defaults are safe and quiet: loopback only, tokens on, model API off, only archives of our store, one log line a
request, Prometheus metrics. Knows nothing of processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from deploy.cpus import Launcher
from servekit.metrics import LABELS, MODEL_METRICS

TEMPLATES = Path(__file__).parent / "templates"
LOOPBACK = "127.0.0.1"
TOKEN_LIFE_MIN = 60 * 24 * 365
"""Tokens are made anew at every start; TorchServe's 60 minutes would end a service that nobody rotates them for."""
JVM_OPTIONS = ("-XX:+ExitOnOutOfMemoryError", "-XX:TieredStopAtLevel=1")
"""The second compiler's code is no faster for a frontend that copies bytes (0.2 ms a request either way), and for the
first quarter of a minute under load it takes CPUs from the model (docs/decisions/0022)."""
MAX_RESPONSE_BYTES = 128 << 20
"""A worker whose reply is larger than this is killed; TorchServe's own 6.5 MB are 1500 vectors of 384 floats."""


@dataclass(frozen=True)
class Ports:
    """TorchServe's five listeners, all told by the first. grpc: the first of its two, where that is not 1010 below."""

    inference: int = 8080
    grpc: int | None = None

    @property
    def management(self) -> int:
        return self.inference + 1

    @property
    def metrics(self) -> int:
        return self.inference + 2

    @property
    def grpc_inference(self) -> int:
        """Always opened by TorchServe, wanted or not; 7070 when inference is 8080."""
        return self.inference - 1010 if self.grpc is None else self.grpc

    @property
    def grpc_management(self) -> int:
        return self.grpc_inference + 1

    def all(self) -> list[int]:
        """Every port that must be free."""
        return [self.inference, self.management, self.metrics, self.grpc_inference, self.grpc_management]


@dataclass(frozen=True)
class ServerOptions:
    """What a user may choose about a local server."""

    store: Path
    ports: Ports = Ports()
    auth: bool = True
    token_life_min: int = TOKEN_LIFE_MIN
    stock: bool = False
    """TorchServe's own defaults for all but addresses and tokens: only to compare with."""
    launcher: Launcher | None = None
    """TorchServe's own core pinning; the models ask for it (local.options_for)."""
    log_level: str = "warn"
    """Of TorchServe's own log, in log4j's words; access lines and what workers print are written at any."""
    properties: Mapping[str, str] = field(default_factory=dict)
    """More of config.properties; they win over what is rendered."""


def config_properties(options: ServerOptions, folder: Path) -> str:
    """config.properties; folder: where log4j2.xml and metrics.yaml stand."""
    ports = options.ports
    properties: dict[str, object] = {
        "inference_address": f"http://{LOOPBACK}:{ports.inference}",
        "management_address": f"http://{LOOPBACK}:{ports.management}",
        "metrics_address": f"http://{LOOPBACK}:{ports.metrics}",
        "grpc_inference_address": LOOPBACK,
        "grpc_inference_port": ports.grpc_inference,
        "grpc_management_address": LOOPBACK,
        "grpc_management_port": ports.grpc_management,
        "model_store": options.store,
        "disable_token_authorization": not options.auth,
    }
    if not options.stock:
        properties |= _safe_and_quiet(options, folder)
    if options.launcher:
        properties["ipex_enable"] = options.launcher.ipex
        properties["cpu_launcher_enable"] = True
        properties["cpu_launcher_args"] = options.launcher.args
    properties |= options.properties
    return "".join(f"{key}={_property(value)}\n" for key, value in properties.items())


def _safe_and_quiet(options: ServerOptions, folder: Path) -> dict[str, object]:
    return {
        "allowed_urls": f"file://{options.store}/.*",
        "enable_model_api": False,
        "token_expiration_min": options.token_life_min,
        "install_py_dep_per_model": False,
        "enable_envvars_config": False,
        # Bodies reach the handler as the client sent them; else a worker guesses, and logs a traceback for bad JSON.
        "decode_input_request": False,
        "max_response_size": MAX_RESPONSE_BYTES,
        "default_workers_per_model": 1,
        "enable_metrics_api": True,
        "metrics_mode": "prometheus",
        "metrics_config": folder / "metrics.yaml",
        # A Python process started every minute to read /proc; a node exporter does that without one.
        "disable_system_metrics": True,
        "vmargs": " ".join([f"-Dlog4j.configurationFile=file://{folder / 'log4j2.xml'}", *JVM_OPTIONS]),
    }


def log4j2_xml(log_dir: Path, level: str = "warn") -> str:
    """log4j2.xml that writes access.jsonl into log_dir."""
    return (TEMPLATES / "log4j2.xml").read_text().replace("@log_dir@", str(log_dir)).replace("@level@", level)


def metrics_yaml() -> str:
    """metrics.yaml: TorchServe's own metrics, the queue's as a histogram, and those of servekit."""
    labels = list(LABELS)
    server = ["Level", "Hostname"]
    model = ["model_name", "model_version", "hostname"]
    document: dict[str, Any] = {
        "dimensions": sorted({*labels, *server, *model, "WorkerName"}),
        "ts_metrics": {
            "counter": [
                *(_metric(name, "Count", server) for name in ("Requests2XX", "Requests4XX", "Requests5XX")),
                _metric("ts_inference_requests_total", "Count", model),
                _metric("ts_inference_latency_microseconds", "Microseconds", model),
                _metric("ts_queue_latency_microseconds", "Microseconds", model),
            ],
            "gauge": [_metric("WorkerLoadTime", "Milliseconds", ["WorkerName", *server])],
            # The client's buckets end at 10 ms here; beyond that the sum and the count still tell the mean.
            "histogram": [
                _metric("QueueTime", "Milliseconds", server),
                _metric("WorkerThreadTime", "Milliseconds", server),
            ],
        },
        "model_metrics": {
            kind: [_metric(m.name, m.unit, labels) for m in MODEL_METRICS if m.kind == kind]
            for kind in ("counter", "histogram")
        },
    }
    # Workers send these as gauges, which keep one call's value; the frontend goes by what is declared here, and a
    # histogram's count is the calls of the handler.
    document["model_metrics"]["histogram"] += [
        _metric(name, "ms", labels) for name in ("HandlerTime", "PredictionTime")
    ]
    return yaml.safe_dump(document, sort_keys=False)


def write(options: ServerOptions, folder: Path) -> None:
    """Write the three files, and make the folder for logs."""
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    (folder / "config.properties").write_text(config_properties(options, folder))
    (folder / "log4j2.xml").write_text(log4j2_xml(logs, options.log_level))
    (folder / "metrics.yaml").write_text(metrics_yaml())


def _property(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _metric(name: str, unit: str, dimensions: list[str]) -> dict[str, Any]:
    return {"name": name, "unit": unit, "dimensions": list(dimensions)}
