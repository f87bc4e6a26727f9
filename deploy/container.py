"""A container's life: read the environment, start TorchServe, be ready, serve, drain, end. SageMaker's contract.

Exit codes: 0 stopped by a signal, 1 what runs here ended or a model does not load, 2 usage or environment. What ends is
not started again here: whoever runs containers does that, counts it, and knows when to give up.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

from deploy import local, readiness
from deploy.container_environment import PLAIN_MODEL_DIR, SAGEMAKER_MODEL_DIR, Environment, read_environment
from deploy.container_log import Tee, log, start_logging
from deploy.container_models import find_archives, served, stage
from deploy.orphans import adopt_orphans, reap
from deploy.render import Ports, ServerOptions
from model_configs.errors import Failed, KitError
from printing import explain

SERVE = "serve"
"""SageMaker's one argument."""
WATCH_S = 0.5
STOP_S = 6.0
"""For TorchServe to end. SageMaker kills a container 30 s after its SIGTERM."""


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run until a signal comes or what runs here ends. Returns the exit code."""
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    start_logging()
    try:
        environment = read_environment(environ)
        for note in environment.notes:
            log.info(note)
        run(environment, model_dir(arguments, environment), stopping)
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


def run(environment: Environment, models_in: Path, stopping: threading.Event) -> None:
    """Serve the models of a folder until stopping is set. Raises KitError, and Failed when something here ended."""
    adopt_orphans()
    store = environment.run_dir / "store"
    shutil.rmtree(store, ignore_errors=True)
    os.environ.setdefault("SERVEKIT_CACHE", str(environment.run_dir / "cache"))
    models = served(stage(find_archives(models_in), store, environment.torchserve), store)
    ports = Ports(environment.port)
    options = ServerOptions(
        store, ports, auth=False, log_level=environment.log_level, properties=environment.properties
    )
    output = Tee(environment.run_dir / str(ports.inference) / local.LOG_FILE)
    try:
        server = local.start(options, models, environment.run_dir, output.descriptor)
    finally:
        output.close()
    try:
        become_ready(server, stopping)
        while not stopping.wait(WATCH_S):
            reap()
            if not server.alive:
                output.join(1.0)
                raise Failed(f"TorchServe ended:\n{local.tail(server.folder, 10)}")
    finally:
        local.stop(server, STOP_S)
        reap()


def become_ready(server: local.Server, stopping: threading.Event) -> None:
    """Wait until every model is ready, or stopping is set. Raises Failed with the error of a worker that died."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(readiness.wait_ready, server)
        while not waiting.done():
            reap()
            if stopping.wait(WATCH_S):
                local.stop(server, STOP_S)  # which ends the waiting
                waiting.exception()
                return
    for model in waiting.result():
        log.info(f"ready: {model.model}, {model.workers_ready} workers, golden request {model.answer_ms} ms")
