"""llama-cpp-python in an environment of its own: installed where it can be, given the same weights, asked by turns.

llama_cpp_peer.py runs there. Knows nothing of the kit's engine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy import RUN_DIR
from model_configs import ROOT

PEER = Path(__file__).with_name("llama_cpp_peer.py")
ENVIRONMENT = RUN_DIR / "peers" / "llama-cpp"
PACKAGES = ("llama-cpp-python==0.3.36", "gguf==0.19.0", "safetensors==0.8.0")
IMPORTS = "import llama_cpp, gguf, safetensors; print(llama_cpp.__version__)"
INSTALL_TIMEOUT_S = 1800


class NotInstalled(Exception):
    """llama-cpp-python cannot be had here; the message says why."""


def python() -> Path:
    """The environment's Python. Installs what is missing, some minutes of compiling. Raises NotInstalled."""
    path = ENVIRONMENT / "bin" / "python"
    if path.exists() and _ends_well([str(path), "-c", IMPORTS], 60) is None:
        return path
    for command in (
        [sys.executable, "-m", "venv", str(ENVIRONMENT)],
        [str(path), "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *PACKAGES],
        [str(path), "-c", IMPORTS],
    ):
        if (problem := _ends_well(command, INSTALL_TIMEOUT_S)) is not None:
            raise NotInstalled(problem)
    return path


def convert(model: Path, target: Path, kind: str) -> Path:
    """model as GGUF in f32 or q8_0, unless target is newer than the weights. Raises NotInstalled."""
    if target.exists() and target.stat().st_mtime > (model / "model.safetensors").stat().st_mtime:
        return target
    draft = target.with_suffix(".draft")
    if (problem := _ends_well([str(python()), str(PEER), "convert", str(model), str(draft), kind], 300)) is not None:
        raise NotInstalled(f"the weights cannot be written as GGUF: {problem}")
    return draft.rename(target)


class LlamaCpp:
    """A process that holds one model; a context manager. It sleeps while it is not asked."""

    def __init__(self, gguf: Path, rows: int, positions: int, threads: int, *, exact: bool = False) -> None:
        """rows: most at a time; positions: of each. exact: attention in float32 too, to compare answers and not speed.

        What llama.cpp says goes into a file beside the model. Raises NotInstalled.
        """
        options = (str(rows), str(positions), str(threads), "exact" if exact else "default")
        self._log = gguf.with_suffix(".log")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(python()), str(PEER), "serve", str(gguf), *options],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.system = str(self._read()["system"])

    def __enter__(self) -> LlamaCpp:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def run(self, prompts: Sequence[Sequence[int]], tokens: int) -> dict[str, Any]:
        """Decode all prompts together: {"step_ms", "ids"}. Raises NotInstalled when the process has died."""
        if self._process.stdin is None:
            raise NotInstalled("the process has no input")
        self._process.stdin.write(json.dumps({"prompts": prompts, "tokens": tokens}) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            words = self._log.read_text(errors="replace").strip().splitlines()[-3:]
            raise NotInstalled(f"llama.cpp ended: {' / '.join(words)}")
        read: dict[str, Any] = json.loads(line)
        return read


def version() -> str:
    """llama-cpp-python's. Raises NotInstalled."""
    return subprocess.run([str(python()), "-c", IMPORTS], capture_output=True, text=True, check=True).stdout.strip()


def _ends_well(command: list[str], timeout_s: float) -> str | None:
    """None, or the last words of a command that failed."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if result.returncode == 0 else (result.stderr.strip().splitlines() or ["no words"])[-1]
