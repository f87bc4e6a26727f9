"""A local server's logs as people read them. Knows nothing of how they are written; templates/log4j2.xml does."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from deploy.local import ACCESS_FILE, LOG_FILE, STATE_FILE, Server, tail
from model_configs.errors import Failed

READ_EVERY_S = 0.2


class Follower:
    """New whole lines of a growing file, each time lines() is called."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0

    def lines(self) -> Iterator[str]:
        """Lines that were finished since the last call; starts again when the file was rolled over."""
        if not self._path.exists():
            return
        if self._path.stat().st_size < self._position:
            self._position = 0
        with self._path.open("rb") as file:
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._position += len(line)
                yield line.decode(errors="replace").rstrip("\n")


def stream(server: Server, say: Callable[[str], None]) -> None:
    """Say every new line of the server's log and a readable form of its access lines, until it is stopped.

    Raises Failed when it ends by itself.
    """
    log, access = Follower(server.folder / LOG_FILE), Follower(server.folder / ACCESS_FILE)
    for follower in (log, access):
        for _ in follower.lines():  # what was there before is told already
            pass
    while server.alive:
        for line in log.lines():
            say(line)
        for line in access.lines():
            say(access_line(json.loads(line)))
        time.sleep(READ_EVERY_S)
    if (server.folder / STATE_FILE).exists():
        raise Failed(f"TorchServe ended:\n{tail(server.folder)}")
    say("stopped by kit.py stop")


def gateway_line(line: str) -> str:
    """One access line of the gateway: clock, status, method, path, milliseconds, whose key."""
    entry = json.loads(line)
    key = f" {entry['key']}" if entry["key"] else ""
    path = entry["path"] or "(no path)"
    return f"{entry['time'][11:19]} {entry['status']} {entry['method']} {path} {1e3 * entry['request_s']:.0f} ms{key}"


def access_line(entry: dict[str, Any]) -> str:
    """One access line: clock, status, method, path, milliseconds."""
    clock = entry["time"][11:]
    if "status" not in entry:
        return f"{clock} {entry['message']}"
    return f"{clock} {entry['status']} {entry['method']} {entry['path']} {entry['ms']} ms"
