"""A C++ source as a shared library. Knows nothing of what it computes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path


def build_library(source: Path, library: Path, flags: Sequence[str]) -> None:
    """Compile by $CXX, g++ if that is not set. Raises RuntimeError with the compiler's words."""
    compiler = os.environ.get("CXX", "g++")
    command = [compiler, *flags, str(source), "-o", str(library)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{compiler} cannot build {source.name}:\n{result.stderr[-2000:]}")
