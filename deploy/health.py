"""The health process: a true /ping and /ready for the gateway, on a socket in its folder.

    python -m deploy.health FOLDER

FOLDER/health.json says which TorchServes to look at; when it changes it is read again. /ping is 200 once every model
of every TorchServe has all its workers READY and has answered its golden request right, and stays 200 when they are
merely busy; it is 503 when a worker is missing or was restarted again and again, or an answer was wrong. /ready is
/ping, but 503 while FOLDER/draining exists. Both answer at once, from what was last seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deploy.local import Server

SOCKET = "health.sock"
SERVERS_FILE = "health.json"
DRAINING_FILE = "draining"


def watch(folder: Path, servers: Sequence[Server]) -> None:
    """Say which TorchServes the health process of this folder is to look at."""
    raise NotImplementedError
