"""A container's life: read the environment, start TorchServe and the gateway, become ready, serve, drain, end.

SageMaker's contract for inference containers, and the same on EC2 and with Compose. Exit codes: 0 stopped by a signal,
1 what runs here ended or a model does not load, 2 usage or environment. What ends is not started again here: whoever
runs the container does that, counts it, and knows when to give up; TorchServe itself replaces workers.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from deploy import gateway_process, local, readiness
from deploy.container_environment import PLAIN_MODEL_DIR, SAGEMAKER_MODEL_DIR, Environment, read_environment
from deploy.container_log import Tee, log, one_output
from deploy.container_models import find_archives, served, stage
from deploy.gateway import OPENAI_PATHS, SPARE_S, GatewayOptions, PublicModel
from deploy.orphans import adopt_orphans, end_children, reap
from deploy.render import Ports, ServerOptions
from model_configs.errors import Failed, KitError
from model_configs.schema import AnyModelConfig
from printing import explain

SERVE = "serve"
"""SageMaker's one argument."""
WATCH_S = 0.5
STOP_S = 6.0
"""For TorchServe to end, behind the drain."""
INNER_PORTS, FIRST_INNER, LAST_INNER = 5, 20000, 32767
"""TorchServe's listeners on loopback; below Linux's ports for outgoing connections."""
LONGEST_PATH = 50
"""Of a folder that sockets are made in, in bytes: a socket's whole path has room for 107."""


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run until a signal comes or what runs here ends. Returns the exit code."""
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        with one_output():
            environment = read_environment(environ)
            for note in environment.notes:
                log.info(note)
            run(environment, model_dir(arguments, environment), stopping, sagemaker=bool(arguments))
    except KitError as error:
        explain(str(error), error.hint)
        return 2
    except Failed as error:
        explain(str(error))
        return 1
    return 0


def model_dir(arguments: Sequence[str], environment: Environment) -> Path:
    """The model folder of `serve`, and of a plain start. Raises KitError for other arguments."""
    if list(arguments) not in ([], [SERVE]):
        raise KitError(f"what is {' '.join(arguments)!r}?", f"{SERVE}, as SageMaker says it, or nothing")
    return environment.model_dir or Path(SAGEMAKER_MODEL_DIR if arguments else PLAIN_MODEL_DIR)


def run(environment: Environment, models_in: Path, stopping: threading.Event, *, sagemaker: bool) -> None:
    """Serve the models of a folder until stopping is set. Raises KitError, and Failed when something here ended."""
    adopt_orphans()
    archives = find_archives(models_in)
    if sagemaker and len(archives) > 1:
        raise KitError(f"{models_in} holds {len(archives)} archives: /invocations means one", f"leave {SERVE} out")
    require_usable(environment.run_dir)
    store = environment.run_dir / "store"
    shutil.rmtree(store, ignore_errors=True)
    configs = stage(archives, store, environment.torchserve)
    models = served(configs, store)
    for variable, folder in (("SERVEKIT_CACHE", "cache"), ("TORCHINDUCTOR_CACHE_DIR", "cache/inductor")):
        os.environ.setdefault(variable, str(environment.run_dir / folder))
    with ExitStack() as ending:
        ending.callback(end_children)
        scratch = ending.enter_context(short_folder(environment.run_dir))
        tempfile.tempdir = str(scratch)
        options = server_options(environment, store)
        output = Tee(environment.run_dir / str(options.ports.inference) / local.LOG_FILE)
        ending.callback(output.join, 1.0)
        try:
            server = local.start(options, models, environment.run_dir, output.descriptor)
        finally:
            output.close()
        ending.callback(local.stop, server, STOP_S)
        gateway = gateway_process.start(gateway_options(environment, configs, scratch / "gateway"), [server])
        ending.callback(drain, gateway, environment, stopping)
        watch(server, gateway, stopping)


def server_options(environment: Environment, store: Path) -> ServerOptions:
    """TorchServe's: all of it on loopback, but for metrics where the environment wants them scraped."""
    properties = dict(environment.properties)
    if environment.metrics_port:
        properties["metrics_address"] = f"http://{environment.host}:{environment.metrics_port}"
    ports = inner_ports(environment)
    return ServerOptions(store, ports, auth=False, log_level=environment.log_level, properties=properties)


def gateway_options(environment: Environment, configs: Sequence[AnyModelConfig], folder: Path) -> GatewayOptions:
    """The gateway's, at the container's port."""
    return GatewayOptions(
        folder,
        environment.port,
        tuple(PublicModel(config.model.name, OPENAI_PATHS.get(config.model.handler, ())) for config in configs),
        environment.gateway,
        environment.host,
        keys=(environment.keys_dir,) if environment.keys_dir else (),
        response_timeout_s=max(config.torchserve.responseTimeout for config in configs) + SPARE_S,
        log_to_output=True,
    )


def inner_ports(environment: Environment) -> Ports:
    """TorchServe's own ports, free ones. Raises KitError where SAGEMAKER_SAFE_PORT_RANGE has too few.

    Containers that share a host, as tests and the emulator have them, begin to look in different places.
    """
    within = environment.safe_ports or range(FIRST_INNER, LAST_INNER + 1)
    blocks = [
        range(first, first + INNER_PORTS) for first in range(within[0], within[-1] + 2 - INNER_PORTS, INNER_PORTS)
    ]
    begin = environment.port % len(blocks) if blocks else 0
    public = {environment.port, environment.metrics_port}
    for block in (*blocks[begin:], *blocks[:begin]):
        if public.isdisjoint(block) and all(map(local.is_free, block)):
            return Ports(block[0], grpc=block[-2])
    raise KitError(
        f"no {INNER_PORTS} free ports in a row in {within[0]}-{within[-1]}", "a wider SAGEMAKER_SAFE_PORT_RANGE"
    )


def require_usable(run_dir: Path) -> None:
    """Raises KitError for a folder that cannot be written, or that code cannot be loaded from."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        if os.statvfs(run_dir).f_flag & os.ST_NOEXEC:
            raise KitError(f"{run_dir} is mounted noexec: compiled models are loaded from there", "--tmpfs /tmp:exec")
        tempfile.TemporaryFile(dir=run_dir).close()
    except OSError as error:
        raise KitError(
            f"cannot write to {run_dir}: {error.strerror}", "--tmpfs /tmp:exec, or SERVEKIT_RUN_DIR"
        ) from None


@contextmanager
def short_folder(run_dir: Path) -> Iterator[Path]:
    """run_dir, or a folder of a shorter name where sockets in run_dir could not be opened."""
    if len(os.fsencode(run_dir)) <= LONGEST_PATH:
        yield run_dir
        return
    with tempfile.TemporaryDirectory(prefix="servekit-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def watch(server: local.Server, gateway: gateway_process.Gateway, stopping: threading.Event) -> None:
    """Say when every model is ready; return when stopping is set. Raises Failed when something ended or cannot load."""
    readying = ThreadPoolExecutor(1).submit(readiness.wait_ready, server)
    told = False
    while not stopping.wait(WATCH_S):
        reap()
        if readying.done() and not told:
            told = True
            for model in readying.result():
                log.info(f"ready: {model.model}, {model.workers_ready} workers, golden request {model.answer_ms} ms")
        if not server.alive:
            raise Failed(f"TorchServe ended:\n{local.tail(server.folder, 10)}")
        if not gateway.alive:
            raise Failed("the gateway ended")


def drain(gateway: gateway_process.Gateway, environment: Environment, stopping: threading.Event) -> None:
    """Take no more requests; if it is a signal that ends us, let those under way end first."""
    if not stopping.is_set():
        gateway.stop(0)
        return
    gateway.drain()
    time.sleep(environment.drain_delay_s)
    if not gateway.stop(environment.drain_timeout_s):
        log.info(f"requests were cut off: they took longer than {environment.drain_timeout_s} s")
