"""What is compared in this machine's processes, without HTTP: eager, this kit by precision, ONNX Runtime.

Each side is a process that side_loop describes, with as many threads as there are CPUs. Knows nothing of figures.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from archives import assets
from deploy import runtime
from loadtest.line_process import LineProcess
from loadtest.peers import environments, models, onnx_files
from loadtest.peers.environments import Missing
from model_configs import ROOT
from model_configs.errors import Failed
from servekit.cpus import read_machine
from servekit.vectors import Vectors

EXPORT_TIMEOUT_S = 300.0
EAGER = "sentence-transformers, eager"
KIT = {"fp32": "this kit", "int8": "this kit, int8", "bf16": "this kit, bf16"}
ONNX = {name: f"ONNX Runtime, {words}" for name, words in onnx_files.WORDS.items()}
ONNX_FP32, ONNX_INT8 = [ONNX[name] for name in onnx_files.FP32], [ONNX[name] for name in onnx_files.INT8]
"""Two each: which of them is faster depends on the shape, and a comparison takes the faster one."""


class Side:
    """One of them."""

    def __init__(self, process: LineProcess) -> None:
        self.process = process

    @property
    def versions(self) -> str:
        """Of what computes."""
        return ", ".join(f"{name} {number}" for name, number in self.process.hello["versions"].items())

    def forward_ms(self, ids: list[list[int]], calls: int) -> list[float]:
        """Milliseconds of each forward pass over these tokens."""
        ms: list[float] = self.process.told({"ids": ids, "calls": calls})["ms"]
        return ms

    def texts_ms(self, texts: Sequence[str], at_a_time: int, calls: int) -> list[float]:
        """Milliseconds of each time from all texts to vectors, so many texts in a call."""
        ms: list[float] = self.process.told({"texts": list(texts), "at_a_time": at_a_time, "calls": calls})["ms"]
        return ms

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """[texts, D], in their order."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "vectors.npy"
            self.process.told({"texts": list(texts), "to": str(file)})
            found: Vectors = np.load(file)
        return found


@dataclass
class Sides:
    """Those that run, and of those that cannot why."""

    running: dict[str, Side] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


@contextmanager
def started(
    *, eager: bool = True, precisions: Sequence[str] = models.PRECISIONS, onnx: Sequence[str] = tuple(onnx_files.WORDS)
) -> Iterator[Sides]:
    """All sides, or some. The kit's artefacts are compiled first where they are not there yet."""
    weights = models.weights()
    threads = str(read_machine().available)
    plain = {**os.environ, "OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"}
    module = [sys.executable, "-m"]
    commands: dict[str, tuple[list[str], dict[str, str]]] = {}
    if eager:
        commands[EAGER] = ([*module, "loadtest.peers.eager_side", str(weights)], plain)
    possible = models.possible_here()
    for precision in (each for each in precisions if each in possible):
        assets.prepare(models.variant(precision), weights, models.STORE / ".prepared")
        own = {**os.environ, **runtime.variables(os.environ)}
        commands[KIT[precision]] = ([*module, "loadtest.peers.kit_side", precision], own)
    found = Sides({}, {KIT[each]: f"this CPU has no {each}" for each in precisions if each not in possible})
    try:
        python, folder = str(environments.python("onnx")), onnx_folder()
        for name in onnx:
            side = [python, "-m", "loadtest.peers.onnx_side", str(folder / name), str(weights), threads]
            commands[ONNX[name]] = (side, plain)
    except Missing as error:
        found.missing |= {ONNX[name]: str(error) for name in onnx}
    with ExitStack() as stack:
        for name, (command, environment) in commands.items():
            log = models.WORK / "logs" / f"{name.replace(' ', '-').replace(',', '')}.log"
            try:
                process = stack.enter_context(LineProcess(name, command, log, environment))
            except Failed as error:
                found.missing[name] = environments.last_words(log) or str(error)
                continue
            found.running[name] = Side(process)
        yield found


def onnx_folder() -> Path:
    """The exported models, made if need be. Raises Missing."""
    folder = models.WORK / "onnx"
    made = folder / onnx_files.DONE
    source = models.weights()
    if made.exists() and made.stat().st_mtime > (source / "model.safetensors").stat().st_mtime:
        return folder
    command = [str(environments.python("onnx")), "-m", "loadtest.peers.onnx_export", str(source), str(folder)]
    log = models.WORK / "logs" / "onnx-export.log"
    problem = ended_badly(command, log, EXPORT_TIMEOUT_S)
    if problem or not made.exists():
        raise Missing(f"the ONNX export failed: {problem or 'no file was written'}")
    return folder


def ended_badly(command: Sequence[str], log: Path, timeout_s: float) -> str:
    """Run a command to its end; its last words when it failed, else nothing."""
    log.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"cwd": ROOT, "stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
    with log.open("wb") as words:
        try:
            code = subprocess.run(command, stdout=words, timeout=timeout_s, check=False, **options).returncode
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    return "" if code == 0 else environments.last_words(log) or f"exit code {code}"
