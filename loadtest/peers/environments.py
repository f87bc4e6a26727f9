"""The Pythons of the peers: .venv/peers/NAME, which `make bench-peers` installs from requirements-peers-NAME.txt.

One that is not there does not end a benchmark: Missing says why, and that goes into the tables. Knows nothing of what
runs there.
"""

from __future__ import annotations

import re
from pathlib import Path

from model_configs import ROOT

ENVIRONMENTS = ROOT / ".venv" / "peers"
NAMES = ("onnx", "litserve", "infinity", "infinity-onnx")
INSTALLED, LOG = ".installed", "install.log"
"""In an environment's folder: the mark of a whole one, and what pip said."""


class Missing(Exception):
    """A peer cannot be measured here; the message says why, in a line."""


def python(name: str, environments: Path = ENVIRONMENTS) -> Path:
    """The Python of a peer. Raises Missing."""
    folder = environments / name
    path = folder / "bin" / "python"
    if path.exists() and (folder / INSTALLED).exists():
        return path
    raise Missing(f"not installed: {last_words(folder / LOG) or 'make bench-peers does that'}")


def last_words(log: Path) -> str:
    """The last line of a log that says what went wrong, else its last line; empty when there is none."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()] if log.exists() else []
    told = [line for line in lines if line]
    errors = [line for line in told if "error" in line.lower()]
    return anywhere((errors or told or [""])[-1])[:300]


def anywhere(words: str) -> str:
    """Words for a page that is read elsewhere: without hosts and without where the project lies."""
    return re.sub(r"https?://\S+|host='[^']*'", "…", words.replace(f"{ROOT}/", ""))
