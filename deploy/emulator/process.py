"""The emulator as a process of its own: start it in the background, find it again, end it with all that it runs.

The first command that needs it starts it, and it survives that command. Its state is in memory: an emulator that ends
forgets everything. Knows nothing of what it does inside.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from deploy.emulator import marked
from deploy.emulator.options import Options, from_environment
from deploy.http_client import Client, Unreachable
from model_configs import ROOT
from model_configs.errors import Failed, KitError

STATE_FILE = "emulator.json"
LOG_FILE = "emulator.log"
ADMIN_PATH = "/_emulator"
OWNER_VARIABLE = "SERVEKIT_EMULATED_BY"
"""Every process of an emulator's has it, with the emulator's folder: what a killed one leaves can be found."""
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 60.0
POLL_S = 0.1


@dataclass(frozen=True)
class Running:
    """An emulator that runs. url: of all services; started_s: Unix time that tells it from a later owner of its pid."""

    pid: int
    url: str
    started_s: float

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        try:
            process = psutil.Process(self.pid)
            return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - self.started_s) < 1
        except psutil.Error:
            return False

    def state(self) -> dict[str, Any]:
        """Endpoints and what runs for them: see server.py."""
        return self._ask("GET", "/state")

    def leftovers(self) -> list[str]:
        """What a deployment may have made and not taken away again, a name each, services' own things not counted."""
        return list(self._ask("GET", "/leftovers")["leftovers"])

    def inject(self, **faults: Any) -> None:
        """Make things fail: see faults.py. Raises Failed for a fault that is unknown."""
        self._ask("POST", "/faults", faults)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        client = Client(self.url, timeout_s=30)
        try:
            path = f"{ADMIN_PATH}{path}"
            reply = client.get(path) if method == "GET" else client.post(path, json.dumps(body).encode())
        except Unreachable as error:
            raise Failed(f"the emulator does not answer: {error}") from None
        if reply.status != 200:
            raise Failed(f"the emulator: {reply.status} {reply.body[:300].decode(errors='replace')}")
        return dict(json.loads(reply.body))


def ensure(options: Options | None = None) -> Running:
    """The emulator that runs, or a new one. options: of a new one, the environment's if None.

    Raises KitError where its requirements are missing or its port is taken, Failed where it does not start.
    """
    options = options or from_environment()
    if find_spec("moto") is None:
        raise KitError("the emulator needs moto", f"{sys.executable} -m pip install -r requirements-emulator.txt")
    options.folder.mkdir(parents=True, exist_ok=True)
    with _locked(options.folder):
        if found := running(options):
            return found
        marked.kill(OWNER_VARIABLE, str(options.folder))  # of one that was killed
        return _start(options)


def running(options: Options | None = None) -> Running | None:
    """The emulator of this folder, if it runs."""
    options = options or from_environment()
    try:
        found = Running(**json.loads((options.folder / STATE_FILE).read_text()))
    except FileNotFoundError:
        return None
    return found if found.alive else None


def stop(options: Options | None = None) -> None:
    """End the emulator and every process of its; nothing if none runs."""
    options = options or from_environment()
    if found := running(options):
        os.kill(found.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while found.alive and time.monotonic() < deadline:
            time.sleep(POLL_S)
    marked.kill(OWNER_VARIABLE, str(options.folder))
    (options.folder / STATE_FILE).unlink(missing_ok=True)


def stop_if_unused(options: Options | None = None) -> bool:
    """End the emulator when no endpoint and no stack is left on it; whether it was ended."""
    found = running(options)
    if found is None or found.state()["in_use"]:
        return False
    stop(options)
    return True


def announce(options: Options) -> None:
    """Called in the emulator itself, once it answers."""
    state = Running(os.getpid(), options.url, psutil.Process().create_time())
    path = options.folder / STATE_FILE
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(asdict(state)) + "\n")
    draft.replace(path)


def _start(options: Options) -> Running:
    log = options.folder / LOG_FILE
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.emulator"],
            cwd=ROOT,
            env={**os.environ, **options.environment(), OWNER_VARIABLE: str(options.folder)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the command that started it
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if found := running(options):
            process.returncode = 0  # it outlives this command, which Popen would warn of
            return found
        time.sleep(POLL_S)
    process.kill()
    process.wait()
    words = log.read_text(errors="replace").strip().splitlines()[-5:]
    if any("Address already in use" in line for line in words):
        raise KitError(f"port {options.port} is in use", "set SERVEKIT_EMULATOR_PORT to another")
    raise Failed("\n".join(["the emulator did not start:", *words]))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Two commands at once start one emulator."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
