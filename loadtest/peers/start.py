"""From starting a worker to its first right answer, by mode, and the memory that it then holds. Figures only.

The worker is TorchServe's own, without the Java server in front: archives/worker.py.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from archives import build
from archives.worker import Request, Worker, WorkerDied
from deploy import runtime
from loadtest.benchmark import Found, Row, in_turns, progress, ratio
from loadtest.line_process import LineProcess
from loadtest.peers import models, processes
from loadtest.peers.in_process import BATCH, texts_of
from loadtest.peers.sides import EAGER, Side
from model_configs.archive_files import read_golden
from model_configs.errors import Failed
from model_configs.schema import AnyModelConfig

EAGER_WORKER, AOT, AOT_INT8, JIT = "eager", "with artefacts", "with artefacts, int8", "compiling at start"
AOT_TARGET, JIT_TARGET, MEMORY_TARGET = 1.3, 5.0, 1.2
ANSWER_S = 900.0
JSON_HEADERS = {"content-type": "application/json"}


@dataclass(frozen=True)
class Start:
    """seconds: to the first right answer; memory_mib: resident set size after all of the mixed set."""

    seconds: float
    memory_mib: float


def measure(turns: int, texts: int, *, compiling: bool) -> Found:
    """Eager and with artefacts by turns. texts: embedded before memory is read. compiling: that too, once; minutes."""
    configs = {
        EAGER_WORKER: models.variant(mode="eager"),
        AOT: models.variant(),
        AOT_INT8: models.variant("int8"),
    }
    asked = texts_of("mixed")[:texts]
    with tempfile.TemporaryDirectory(prefix="sk-start-") as folder:
        roots = {name: unpacked(config, Path(folder)) for name, config in configs.items()}
        calls = {name: partial(start, name, root, asked) for name, root in roots.items()}
        starts = in_turns(calls, turns, rotate=True)
        if compiling:
            progress.print(f"  {JIT}")
            starts[JIT] = [start(JIT, unpacked(models.variant(mode="jit"), Path(folder)), asked)]
    return Found(rows(starts, eager_memory_mib(asked)))


def unpacked(config: AnyModelConfig, folder: Path) -> Path:
    """The model's archive, built if need be, as a worker finds it."""
    target = folder / config.model.name
    target.mkdir()
    return build.unpack(build.build(config, models.STORE).path, target)


def start(name: str, root: Path, texts: Sequence[str]) -> Start:
    """Start a worker, ask it the golden request, then all texts. Raises Failed when it answers wrong."""
    golden = read_golden(root)
    # A machine that has never compiled anything: no cache but an empty one.
    with tempfile.TemporaryDirectory(prefix="sk-cache-") as cache:
        environment = {**runtime.variables(os.environ), "SERVEKIT_CACHE": cache}
        began = time.perf_counter()
        try:
            with Worker(root, environment) as worker:
                worker.load("minilm", ANSWER_S)
                reply = worker.predict([Request(json.dumps(golden.body).encode(), JSON_HEADERS)])[0]
                seconds = time.perf_counter() - began
                if problem := golden.verdict(reply.body):
                    raise Failed(f"{name}: {problem}")
                for place in range(0, len(texts), BATCH):
                    bodies = [json.dumps({"inputs": text}).encode() for text in texts[place : place + BATCH]]
                    worker.predict([Request(body, JSON_HEADERS) for body in bodies], ANSWER_S)
                return Start(seconds, processes.resident_mib(worker.process.pid))
        except WorkerDied as error:
            raise Failed(f"{name}: {error}") from None


def eager_memory_mib(texts: Sequence[str]) -> float:
    """Of a process with sentence-transformers that has embedded the same texts."""
    command = [sys.executable, "-m", "loadtest.peers.eager_side", str(models.weights())]
    with LineProcess(EAGER, command, models.WORK / "logs" / "eager-memory.log") as process:
        Side(process).texts_ms(texts, BATCH, 0)
        return processes.resident_mib(process.pid)


def rows(starts: Mapping[str, Sequence[Start]], eager_mib: float) -> list[Row]:
    """What the issue asks of starting and of memory."""
    seconds = {name: [each.seconds for each in own] for name, own in starts.items()}
    memory = {name: statistics.median(each.memory_mib for each in own) for name, own in starts.items()}
    against_jit = "start with artefacts, against compiling at start"
    of_eager = statistics.median(seconds[AOT]) / statistics.median(seconds[EAGER_WORKER])
    return [
        *(Row(f"start: {name}", statistics.median(own), "s", spread(own)) for name, own in seconds.items()),
        Row("start with artefacts, of the eager worker's", of_eager, "×", "", AOT_TARGET, at_most=True),
        ratio(against_jit, seconds[JIT], seconds[AOT], "", JIT_TARGET)
        if JIT in seconds
        else Row(against_jit, None, "×", "not measured", JIT_TARGET),
        *(Row(f"memory: {name}", own, "MiB", "resident set size of a worker") for name, own in memory.items()),
        Row(f"memory: {EAGER}", eager_mib, "MiB", "resident set size of a process"),
        *(
            Row(f"memory {name}, of {EAGER}", memory[name] / eager_mib, "×", "", MEMORY_TARGET, at_most=True)
            for name in (AOT, AOT_INT8)
        ),
    ]


def spread(values: Sequence[float]) -> str:
    """From the fastest to the slowest turn."""
    return f"{len(values)} starts, from {min(values):.1f} to {max(values):.1f}"
