"""What the Neuron image demands of a worker's code: Python 3.10, and transformers before 4.48.

`make test-neuron-image` makes an environment with such a transformers, in which the neuron engine's own tests run.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from model_configs import HANDLERS_DIR, ROOT
from servekit.neuron_support import IMAGE

PYTHON = ROOT / ".venv" / "neuron" / "bin" / "python"
NEURON_TESTS = ("tests/handlers/test_neuron_engine.py", "tests/unit/test_neuron_support.py")
PYTHON_OF_IMAGE = (3, 10)
IMPORT_ALL = """
import importlib, pathlib, sys, transformers
major, minor = map(int, transformers.__version__.split(".")[:2])
assert (4, 43) <= (major, minor) < (4, 48), transformers.__version__
for path in sorted(pathlib.Path("handlers/servekit").rglob("*.py")):
    module = ".".join(path.relative_to("handlers").with_suffix("").parts).removesuffix(".__init__")
    importlib.import_module(module)
"""

needs_environment = pytest.mark.skipif(
    not PYTHON.exists(), reason="no environment with the Neuron image's transformers: make test-neuron-image"
)


def test_the_image_s_python() -> None:
    assert IMAGE.python == "{}.{}".format(*PYTHON_OF_IMAGE)


@pytest.mark.parametrize(
    "path", sorted(HANDLERS_DIR.rglob("*.py")), ids=lambda path: str(path.relative_to(HANDLERS_DIR))
)
def test_a_worker_s_code_is_python_3_10(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=PYTHON_OF_IMAGE)


def test_a_worker_s_code_asks_for_no_newer_standard_library() -> None:
    program = Path(sys.executable).with_name("vermin")
    if not program.exists():
        pytest.skip("vermin is not installed: requirements-dev.txt has it")
    command = [str(program), f"-t={IMAGE.python}-", "--no-tips", "--violations", str(HANDLERS_DIR)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


@needs_environment
def test_servekit_imports_there() -> None:
    run("-c", IMPORT_ALL)


@needs_environment
def test_the_neuron_engine_runs_there() -> None:
    output = run("-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", "-W", "default", *NEURON_TESTS)
    assert int(re.findall(r"(\d+) passed", output)[-1]) > 0


def run(*arguments: str) -> str:
    """Run this with the environment's Python, in the project's root. Returns what it printed."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{HANDLERS_DIR}", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [PYTHON, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout
