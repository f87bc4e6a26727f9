"""A folder for what this machine has learnt and would else learn again at every start: measurements, compiled code.

Only this user can write it, since native code is loaded from it. Knows nothing of what is kept.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

VARIABLE = "SERVEKIT_CACHE"


def cache_folder(kind: str) -> Path:
    """$SERVEKIT_CACHE, else $XDG_CACHE_HOME/servekit, else ~/.cache/servekit, else the temporary folder; made if it is
    not there. Raises PermissionError when it belongs to somebody else or others may write it."""
    candidates = [
        os.environ.get(VARIABLE),
        *_homes(),
        str(Path(tempfile.gettempdir()) / f"servekit-cache-{os.getuid()}"),
    ]
    for candidate in filter(None, candidates):
        folder = Path(candidate) / kind
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:  # a read-only home, as in many containers
            continue
        if os.access(folder, os.W_OK):
            _require_ours(folder)
            return folder
    raise PermissionError(f"no folder to keep {kind} in: set {VARIABLE} to one that can be written")


def _homes() -> list[str]:
    home = os.environ.get("HOME")
    cache = os.environ.get("XDG_CACHE_HOME") or (str(Path(home) / ".cache") if home else None)
    return [str(Path(cache) / "servekit")] if cache else []


def _require_ours(folder: Path) -> None:
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(f"{folder} belongs to somebody else or can be written by others: remove it")
