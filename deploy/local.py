"""TorchServe on this machine: start it, find it again, stop it without leaving anything behind.

Every server has a folder .run/<port>/ with its configuration, keys, logs and server.json. Knows nothing of what the
models answer; readiness.py does.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from deploy import RUN_DIR, cpus, render, runtime
from deploy.http_client import Client
from deploy.java import find_java_home
from deploy.render import LOOPBACK, Ports, ServerOptions
from model_configs.errors import Failed, KitError
from model_configs.schema import AnyModelConfig
from servekit.golden import Golden
from servekit.settings import URL_VARIABLE, CpuSettings

STATE_FILE = "server.json"
LOG_FILE = "logs/server.log"
ACCESS_FILE = "logs/access.jsonl"
KEY_FILE = "key_file.json"
JAVA_CLASS = "org.pytorch.serve.ModelServer"
STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class ServedModel:
    """One model of a server. archive: its file's or folder's name in the store; threads: of a worker, None for auto."""

    name: str
    version: str
    archive: str
    workers: int
    startup_timeout_s: int
    golden: Golden
    max_workers: int = 1
    threads: int | None = None
    pinning: cpus.Pinning = "own"


@dataclass(frozen=True)
class Front:
    """The gateway before a TorchServe: clients ask its port instead. tls: by HTTPS."""

    port: int
    tls: bool


@dataclass(frozen=True)
class Fleet:
    """TorchServes that share this machine behind one gateway. meeting: a folder that exists, in which the workers of
    all of them agree who gets which CPUs."""

    front: Front
    size: int
    meeting: Path


@dataclass(frozen=True)
class Server:
    """A TorchServe that was started here. folder: its .run folder; scratch: its own temporary folder."""

    pid: int
    port: int
    auth: bool
    folder: Path
    scratch: Path
    models: tuple[ServedModel, ...]
    front: Front | None = None

    @property
    def ports(self) -> Ports:
        return Ports(self.port)

    @property
    def alive(self) -> bool:
        """Whether this very process still runs; a pid may have been given to another."""
        try:
            return JAVA_CLASS in psutil.Process(self.pid).cmdline()
        except psutil.Error:
            return False

    @property
    def url(self) -> str:
        """Where clients on this machine ask: the gateway, unless its certificate stands for another name."""
        return f"http://{LOOPBACK}:{self._asked.name}"

    @property
    def client_key_file(self) -> Path | None:
        """What opens url, in the form of TorchServe's key_file.json; None where nothing is asked for."""
        return self._asked / KEY_FILE if self.auth else None

    @property
    def client_key(self) -> str | None:
        """What clients send to url as their bearer token; None where nothing is asked for, or it is not there yet."""
        return _read_key(self.client_key_file, "inference")

    def is_at(self, port: int | None) -> bool:
        """Whether a port that a user named, or any for None, is this server's or its gateway's."""
        return port in (None, self.port, self.front.port if self.front else None)

    def inference(self) -> Client:
        """A client for predictions."""
        return Client(f"http://{LOOPBACK}:{self.ports.inference}", self.token("inference"))

    def management(self) -> Client:
        """A client for describe-model."""
        return Client(f"http://{LOOPBACK}:{self.ports.management}", self.token("management"), timeout_s=10)

    def metrics(self) -> Client:
        """A client for Prometheus metrics, which take the management token."""
        return Client(f"http://{LOOPBACK}:{self.ports.metrics}", self.token("management"), timeout_s=10)

    def token(self, kind: str) -> str | None:
        """The current inference or management token; None without --auth or before TorchServe has written it."""
        return _read_key(self.folder / KEY_FILE if self.auth else None, kind)

    @property
    def _asked(self) -> Path:
        """The .run folder, named by its port, of the gateway or of this server."""
        return self.folder.parent / str(self.front.port) if self.front and not self.front.tls else self.folder


def served_model(config: AnyModelConfig, archive: str, golden: Golden) -> ServedModel:
    """What a server has to know of a model whose archive stands in the store under this name."""
    serving, settings = config.torchserve, config.handler
    own = settings if isinstance(settings, CpuSettings) else CpuSettings(pinning="off")
    return ServedModel(
        config.model.name,
        config.model.version,
        archive,
        serving.minWorkers,
        serving.startupTimeout,
        golden,
        serving.maxWorkers,
        None if own.threads == "auto" else own.threads,
        own.pinning,
    )


def options_for(options: ServerOptions, models: list[ServedModel]) -> ServerOptions:
    """The options, with TorchServe's launcher when the models ask for it. Raises KitError if they cannot share it."""
    return replace(options, launcher=cpus.launcher(models))


def command(options: ServerOptions, models: list[ServedModel], folder: Path) -> list[str]:
    """The torchserve call for these models."""
    pairs = [f"{model.name}={model.archive}" for model in models]
    return [
        str(Path(sys.executable).with_name("torchserve")), "--start", "--ncs", "--model-store", str(options.store),
        "--models", *pairs, "--ts-config", str(folder / "config.properties"),
    ]  # fmt: skip


def start(
    options: ServerOptions,
    models: list[ServedModel],
    run_dir: Path = RUN_DIR,
    output: int | None = None,
    fleet: Fleet | None = None,
) -> Server:
    """Start TorchServe and return at once; readiness.wait_ready says when it answers. Raises KitError.

    output: the file descriptor that it prints to, instead of its own log file. fleet: that it is one of.
    """
    folder = run_dir / str(options.ports.inference)
    if (running := read_server(folder)) and running.alive:
        names = " ".join(model.name for model in running.models)
        raise KitError(
            f"a server for {names} already runs on port {running.port}",
            f"kit.py stop --port {running.port}, or another --port",
        )
    options = options_for(options, models)
    java_home = find_java_home()
    _require_free(options.ports)
    render.write(options, folder)
    log_file = folder / LOG_FILE
    if output is None and log_file.exists():
        log_file.replace(log_file.with_name("server.previous.log"))
    (folder / KEY_FILE).unlink(missing_ok=True)
    # TorchServe unpacks archives, workers their artefacts, into a folder of the server's own: a worker that is
    # killed cleans nothing up.
    scratch = Path(tempfile.mkdtemp(prefix="servekit-"))
    with log_file.open("wb") if output is None else nullcontext(output) as log:
        starter = subprocess.run(
            command(options, models, folder),
            cwd=folder,
            env=_environment(java_home, scratch, folder)
            | (cpus.environment(models, fleet.meeting, fleet.size) if fleet else cpus.environment(models, scratch))
            | {URL_VARIABLE: f"http://{LOOPBACK}:{options.ports.inference}"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us, who then stop it in order
            check=False,
        )
    pid_file = scratch / ".model_server.pid"
    if starter.returncode != 0 or not pid_file.exists():
        shutil.rmtree(scratch)
        raise Failed(f"torchserve did not start:\n{tail(folder)}")
    pid = int(pid_file.read_text())
    front = fleet.front if fleet else None
    server = Server(pid, options.ports.inference, options.auth, folder, scratch, tuple(models), front)
    _write(server)
    return server


def stop(server: Server, timeout_s: float = STOP_TIMEOUT_S) -> None:
    """End the server and its workers, politely first, and remove its scratch folder and keys."""
    try:
        java = psutil.Process(server.pid)
        processes = [java, *java.children(recursive=True)] if server.alive else []
    except psutil.NoSuchProcess:
        processes = []
    # Gone from the list first, so that a `serve` in the foreground can tell being stopped from dying.
    (server.folder / STATE_FILE).unlink(missing_ok=True)
    if processes:
        processes[0].terminate()
        _, left = psutil.wait_procs(processes, timeout=timeout_s)
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=5)
    shutil.rmtree(server.scratch, ignore_errors=True)
    (server.folder / KEY_FILE).unlink(missing_ok=True)


def servers(run_dir: Path = RUN_DIR) -> list[Server]:
    """Every server that was started and not stopped, by port; one that died by itself is among them, not alive."""
    found = [read_server(path.parent) for path in run_dir.glob(f"*/{STATE_FILE}")]
    return sorted((server for server in found if server), key=lambda server: server.port)


def read_server(folder: Path) -> Server | None:
    """The server of this .run folder, if one was started and not stopped."""
    try:
        state = json.loads((folder / STATE_FILE).read_text())
    except FileNotFoundError:
        return None
    models = tuple(ServedModel(**{**model, "golden": Golden(**model["golden"])}) for model in state["models"])
    front = Front(**state["front"]) if state.get("front") else None
    return Server(state["pid"], state["port"], state["auth"], folder, Path(state["scratch"]), models, front)


def tail(folder: Path, lines: int = 40) -> str:
    """The end of a server's log."""
    path = folder / LOG_FILE
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""


def _read_key(path: Path | None, kind: str) -> str | None:
    try:
        return str(json.loads(path.read_text())[kind]["key"]) if path else None
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _environment(java_home: Path, scratch: Path, folder: Path) -> dict[str, str]:
    """Ours, without what would change the server behind our back: TS_* variables win over the configuration."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("TS_") and key not in ("PYTHONPATH", "PYTHONHOME")
    }
    return {
        **kept,
        **runtime.variables(kept),
        # The check for TorchServe's launcher runs plain `python` (WorkerLifeCycle.java); the models' is meant.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "JAVA_HOME": str(java_home),
        "TEMP": str(scratch),
        "TMPDIR": str(scratch),
        "LOG_LOCATION": str(folder / "logs"),
        "METRICS_LOCATION": str(folder / "logs"),
        "HF_HUB_OFFLINE": "1",
    }


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether nobody listens there."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _require_free(ports: Ports) -> None:
    taken = [port for port in ports.all() if not is_free(port)]
    if taken:
        raise KitError(f"port {taken[0]} is in use", "choose another with --port")


def _write(server: Server) -> None:
    state = {**asdict(server), "folder": str(server.folder), "scratch": str(server.scratch), "started": time.time()}
    (server.folder / STATE_FILE).write_text(json.dumps(state) + "\n")
