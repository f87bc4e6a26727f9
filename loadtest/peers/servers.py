"""The servers that are compared through HTTP, each started as its users start it. Knows nothing of load and figures.

One that cannot be installed, does not start or answers wrong is Missing, with the reason.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from archives import assets, build
from deploy.render import LOOPBACK
from loadtest import serving, stock_servers
from loadtest.benchmark import progress
from loadtest.peers import environments, models, onnx_files, processes, sides
from loadtest.peers.answers import wrong_vector
from loadtest.peers.environments import Missing
from loadtest.plan import Target
from loadtest.stock_servers import StockModel
from model_configs import ROOT
from model_configs.archive_files import read_golden
from model_configs.errors import Failed, KitError
from model_configs.schema import load_model
from servekit.cpus import read_machine
from servekit.golden import Golden

Precision = Literal["fp32", "int8"]
KIT, KIT_INT8 = "this kit", "this kit, int8"
RECIPE, COMPILED = "the article's recipe", "the recipe, torch.compile"
LITSERVE = "LitServe, sentence-transformers"
INFINITY, INFINITY_ONNX, INFINITY_INT8 = "infinity, torch", "infinity, ONNX Runtime", "infinity, ONNX Runtime int8"
PORTS = {
    KIT: 24510, KIT_INT8: 24520, RECIPE: 24530, COMPILED: 24540, LITSERVE: 24550, INFINITY: 24560, INFINITY_ONNX: 24570,
    INFINITY_INT8: 24580,
}  # fmt: skip
HANDLER = Path(__file__).with_name("stock_embedding_handler.py")
RECIPE_SETTINGS = {"minWorkers": 1, "maxWorkers": 1, "batchSize": 16, "maxBatchDelay": 100}
PATIENT = {"startupTimeout": 900, "responseTimeout": 900}
"""Seconds, for what compiles at its first requests."""


@dataclass(frozen=True)
class Running:
    """A server that answers right. start_s: from starting it to its first right answer; pid: of its first process."""

    target: Target
    pid: int
    start_s: float


@dataclass(frozen=True)
class Began:
    """A server that answers. start_s: None when all the time that it took was its start."""

    target: Target
    pid: int
    start_s: float | None = None


@dataclass(frozen=True)
class Server:
    """One of those that are compared. settings: in words, for the table.

    restless: it works while nobody asks it, so that it runs only while it is measured itself.
    """

    name: str
    precision: Precision
    settings: str
    start: Callable[[], AbstractContextManager[Began]]
    restless: bool = False


@dataclass
class Servers:
    """Those that run, and of those that do not why; asleep: the restless ones, which can be started again."""

    running: dict[str, Running] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    asleep: dict[str, Server] = field(default_factory=dict)
    stacks: dict[str, ExitStack] = field(default_factory=dict)

    def stop(self, server: Server) -> None:
        """End one that is restless, until it is measured."""
        self.stacks.pop(server.name).close()
        del self.running[server.name]
        self.asleep[server.name] = server

    def fail(self, name: str, reason: str) -> None:
        """It is missing from now on."""
        self.running.pop(name, None)
        self.asleep.pop(name, None)
        self.missing[name] = reason
        progress.print(f"  {name}: {reason}")


def all_servers() -> list[Server]:
    """Every one, whether it can be had or not."""
    recipe = "TorchServe's defaults and logging, batchSize 16, maxBatchDelay 100"
    infinity = "infinity-emb 0.0.78, batch size 32"
    return [
        Server(KIT, "fp32", f"minilm.yaml: {_yaml_words()}", partial(_kit, "fp32")),
        Server(KIT_INT8, "int8", "the same, handler.compile.precision: int8", partial(_kit, "int8")),
        Server(RECIPE, "fp32", f"eager; {recipe}", partial(_recipe, RECIPE, compiled=False)),
        Server(COMPILED, "fp32", f"torch.compile, frozen weights; {recipe}", partial(_recipe, COMPILED, compiled=True)),
        Server(
            LITSERVE, "fp32",
            "litserve 0.2.19, max_batch_size 32, batch_timeout 1 ms, one worker; it polls its queue each ms, and so it "
            "runs only while it is measured", _litserve, restless=True,
        ),
        Server(INFINITY, "fp32", f"{infinity}, BetterTransformer (its default)", _infinity),
        Server(
            INFINITY_ONNX, "fp32", f"{infinity}, optimum engine",
            partial(_infinity_onnx, INFINITY_ONNX, onnx_files.PLAIN, "model.onnx"),
        ),
        Server(
            INFINITY_INT8, "int8", f"{infinity}, optimum engine, dynamic int8",
            partial(_infinity_onnx, INFINITY_INT8, onnx_files.PLAIN_INT8, "model_quantized.onnx"),
        ),
    ]  # fmt: skip


@contextmanager
def started(servers: Sequence[Server]) -> Iterator[Servers]:
    """One after the other; all run until the end, but those that are stopped before."""
    golden = read_golden(build.build(models.variant(), models.STORE).path)
    found = Servers()
    with ExitStack() as all_stacks:
        for server in servers:
            progress.print(f"  starting {server.name}")
            stack = all_stacks.enter_context(ExitStack())
            began = time.monotonic()
            try:
                own = stack.enter_context(server.start())
                check(own.target, golden, server.precision)
            except (Missing, Failed, KitError) as error:
                stack.close()
                found.fail(server.name, in_a_line(str(error)))
                continue
            found.stacks[server.name] = stack
            found.running[server.name] = Running(own.target, own.pid, own.start_s or time.monotonic() - began)
        yield found


def in_a_line(words: str) -> str:
    """The last line that says something, with the first before it."""
    lines = [line.strip() for line in words.splitlines() if line.strip()] or ["no words"]
    return environments.anywhere(lines[0] if len(lines) == 1 else f"{lines[0]} … {lines[-1]}")[:400]


def check(target: Target, golden: Golden, precision: Precision) -> None:
    """Raises Failed when the server's vector of a golden text is not the model's."""
    inputs: Any = golden.body["inputs"]
    status, body = processes.post(target, str(inputs[0]))
    problem = wrong_vector(body, golden.expected[0], precision) if status == 200 else f"status {status}: {body[:200]!r}"
    if problem:
        raise Failed(f"it answers wrong: {problem}")


def _yaml_words() -> str:
    serving_as = load_model(models.MODEL).torchserve
    return f"batchSize {serving_as.batchSize}, maxBatchDelay {serving_as.maxBatchDelay}"


@contextmanager
def _kit(precision: str) -> Iterator[Began]:
    name = KIT if precision == "fp32" else KIT_INT8
    with serving.started(models.variant(precision), PORTS[name], store=models.STORE) as served:
        assert served.server is not None  # noqa: S101 - it was started just now
        yield Began(served.target, served.server.pid, served.start_s)


@contextmanager
def _recipe(name: str, *, compiled: bool) -> Iterator[Began]:
    settings = {**RECIPE_SETTINGS, **PATIENT, "handler": {"model": str(models.weights()), "compiled": compiled}}
    model = StockModel("recipe-compiled" if compiled else "recipe", HANDLER, settings, {"inputs": processes.WORD})
    config = load_model(models.MODEL)
    with stock_servers.running(config, model, models.STORE, PORTS[name], auth=False) as (_, target, server):
        yield Began(target, server.pid)


@contextmanager
def _litserve() -> Iterator[Began]:
    command = [
        str(environments.python("litserve")), "-m", "loadtest.peers.litserve_server", str(models.weights()),
        str(PORTS[LITSERVE]), str(read_machine().available),
    ]  # fmt: skip
    with processes.running(command, _target(LITSERVE, "predictions"), ROOT, _log(LITSERVE)) as pid:
        yield Began(_target(LITSERVE, "predictions"), pid)


@contextmanager
def _infinity() -> Iterator[Began]:
    options = ["--engine", "torch", "--dtype", "float32"]
    with _infinity_server(INFINITY, "infinity", models.weights(), options) as running:
        yield running


@contextmanager
def _infinity_onnx(name: str, source: str, file: str) -> Iterator[Began]:
    folder = models.WORK / "infinity" / file.removesuffix(".onnx")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    exported = sides.onnx_folder() / source
    config = load_model(models.MODEL)
    for path in assets.model_files(models.weights(), config):
        if path.suffix != ".safetensors":
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(models.weights() / path, folder / path)
    shutil.copy(exported, folder / file)
    # It takes CLS pooling where it is told nothing. Its own optimisation asks optimum for what optimum no longer has.
    options = ["--engine", "optimum", "--pooling-method", "mean", "--onnx-disable-optimize"]
    with _infinity_server(name, "infinity-onnx", folder, options) as running:
        yield running


@contextmanager
def _infinity_server(name: str, environment: str, model: Path, options: Sequence[str]) -> Iterator[Began]:
    """In the model's folder, by the path ".": its optimum engine finds a local file in no other way."""
    python = environments.python(environment)
    command = [
        str(python), str(python.with_name("infinity_emb")), "v2", "--model-id", ".", "--url-prefix", "/v1",
        "--served-model-name", models.MODEL, "--device", "cpu", "--batch-size", "32",
        "--host", LOOPBACK, "--port", str(PORTS[name]),
        "--log-level", "warning", *options,
    ]  # fmt: skip
    target = _target(name, "openai-embeddings")
    home = {"HF_HOME": str(models.WORK / "infinity" / f"home-{PORTS[name]}"), "DO_NOT_TRACK": "1"}
    with processes.running(command, target, model, _log(name), home) as pid:
        yield Began(target, pid)


def _target(name: str, kind: Literal["predictions", "openai-embeddings"]) -> Target:
    return Target(kind=kind, url=f"http://{LOOPBACK}:{PORTS[name]}", model=models.MODEL)


def _log(name: str) -> Path:
    return models.WORK / "logs" / f"server-{PORTS[name]}.log"
