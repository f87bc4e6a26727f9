"""The health process: looks at the TorchServes of a gateway, and writes what nginx answers /ping and /ready from.

    python -m deploy.health FOLDER

FOLDER/health.json says which TorchServes to look at; when it changes it is read again. /ping is 200 once every model
of every TorchServe has all its workers READY and has answered its golden request right, and stays 200 when they are
merely busy; it is 503 when a worker is missing or was restarted again and again, or an answer was wrong
(health_state.py). /ready is /ping, but 503 while FOLDER/draining exists. nginx reads FOLDER/state.json for both, so
that they are answered at once however busy the machine is; a state that is older than STALE_S, which
templates/gateway.js knows too, is 503. Being the one that is always there, this process also keeps nginx's logs from
filling the disk.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy import background, health_state
from deploy.health_state import ModelState, ServerState, Worker
from deploy.http_client import Client, Response, Unreachable
from deploy.local import ServedModel, Server, read_server
from deploy.nginx import GATEWAY, Nginx
from deploy.render import LOOPBACK

MODULE = "deploy.health"
SERVERS_FILE = "health.json"
STATE_FILE = "state.json"
DRAINING_FILE = "draining"
LOOK_EVERY_S, WRITE_EVERY_S = 1.0, 0.25
STALE_S = 30.0
"""After which a state counts as none: as long as TorchServe may be silent."""
DESCRIBE_TIMEOUT_S = 10.0
GOLDEN_TIMEOUT_S = 60.0
FULL_QUEUE = b"has no worker to serve inference request"
"""TorchServe's words for a full queue, with a 503, as for a handler that failed."""
ACCESS_LOG = "logs/access.jsonl"
MOST_LOG_BYTES = 100 << 20
"""Of each of nginx's logs; as much again of what was before."""


def watch(folder: Path, servers: Sequence[Server]) -> None:
    """Say which TorchServes the health process of this folder is to look at."""
    fresh = folder / f"{SERVERS_FILE}.new"
    fresh.write_text(json.dumps({"servers": [str(server.folder) for server in servers]}) + "\n")
    fresh.replace(folder / SERVERS_FILE)


def state(folder: Path) -> dict[str, Any] | None:
    """What is known: ping, problems, servers. None where the health process says nothing, or nothing new."""
    try:
        document: dict[str, Any] = json.loads((folder / STATE_FILE).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return document if time.time() - document["written"] <= STALE_S else None


class Watched:
    """One TorchServe, looked at by two threads: what it says of its workers may not wait for a golden answer."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self.state = ServerState(server.port, [ModelState(model.name, model.workers) for model in server.models])
        for target in (self._look, self._ask):
            threading.Thread(target=target, daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()

    def _look(self) -> None:
        while not self._stopped.is_set():
            gone = not self._server.alive
            if not gone:
                for model, own in zip(self._server.models, self.state.models, strict=True):
                    self._describe(model, own)
            with self._lock:
                self.state.gone = gone
            self._stopped.wait(LOOK_EVERY_S)

    def _describe(self, model: ServedModel, own: ModelState) -> None:
        try:
            reply = self._client(self._server.ports.management, "management", DESCRIBE_TIMEOUT_S).get(
                f"/models/{model.name}/{model.version}"
            )
            told = json.loads(reply.body)[0]["workers"] if reply.status == 200 else None
        except (Unreachable, ValueError, LookupError, TypeError):
            told = None
        if told is not None:
            with self._lock:
                own.described(time.monotonic(), [Worker(each["status"], int(each["pid"])) for each in told])

    def _ask(self) -> None:
        while not self._stopped.wait(LOOK_EVERY_S / 5):
            for model, own in zip(self._server.models, self.state.models, strict=True):
                with self._lock:
                    due = not self.state.gone and own.golden_due(time.monotonic())
                if due:
                    self._golden(model, own)

    def _golden(self, model: ServedModel, own: ModelState) -> None:
        began_s = time.monotonic()
        try:
            reply = self._client(self._server.port, "inference", GOLDEN_TIMEOUT_S).post(
                f"/predictions/{model.name}/{model.version}", json.dumps(model.golden.body).encode()
            )
            wrong = verdict(model, reply)
        except Unreachable:
            wrong = None
        now_s = time.monotonic()
        with self._lock:
            if wrong is None:
                own.busy(now_s)
            else:
                own.answered(now_s, now_s - began_s, wrong)

    def _client(self, port: int, kind: str, timeout_s: float) -> Client:
        # A token may not be there yet when this process starts.
        return Client(f"http://{LOOPBACK}:{port}", self._server.token(kind), timeout_s)


def verdict(model: ServedModel, reply: Response) -> str | None:
    """What is wrong with a reply to the golden request, the empty string if it is right, None if that is not known."""
    if reply.status == 200:
        return model.golden.verdict(reply.body)
    if reply.status == 429 or (reply.status == 503 and FULL_QUEUE in reply.body):
        return None
    return f"the golden request got {reply.status}: {reply.body[:200]!r}"


class Health:
    """All TorchServes of a gateway. folder: the gateway's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._watched: dict[tuple[Path, int], Watched] = {}
        self._read_ns = 0

    def reread(self) -> None:
        """Look at those that FOLDER/health.json names, from now on; those that stay keep what is known of them."""
        changed_ns = (self._folder / SERVERS_FILE).stat().st_mtime_ns
        if changed_ns == self._read_ns:
            return
        self._read_ns = changed_ns
        named = json.loads((self._folder / SERVERS_FILE).read_text())["servers"]
        found = {(server.folder, server.pid): server for path in named if (server := read_server(Path(path)))}
        watched = {key: self._watched.get(key) or Watched(server) for key, server in found.items()}
        for key, old in self._watched.items():
            if key not in watched:
                old.stop()
        self._watched = watched

    def document(self) -> dict[str, Any]:
        """All that is known."""
        now_s = time.monotonic()
        servers = [watched.state for watched in self._watched.values()]
        problems = health_state.problems(servers, now_s)
        return {
            "written": time.time(),
            "ping": not problems,
            "problems": problems,
            "servers": [server.document(now_s) for server in servers],
        }

    def write(self) -> None:
        """Tell nginx."""
        fresh = self._folder / f"{STATE_FILE}.new"
        fresh.write_text(json.dumps(self.document()) + "\n")
        fresh.replace(self._folder / STATE_FILE)


def rotate(folder: Path) -> None:
    """Keep the logs of every nginx of this folder within their bytes."""
    Nginx(folder, GATEWAY).rotate(ACCESS_LOG, MOST_LOG_BYTES)
    for configuration in folder.glob("*.conf"):
        name = configuration.stem
        Nginx(folder, name).rotate(f"logs/{name}.log", MOST_LOG_BYTES)


def main(folder: Path) -> None:
    """Look, until a signal ends it."""
    background.detach(MODULE, folder)
    health = Health(folder)
    while True:
        health.reread()
        health.write()
        rotate(folder)
        time.sleep(WRITE_EVERY_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
