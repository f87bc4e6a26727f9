"""Gateways for tests: real nginx and health processes before a TorchServe that is scripted, and raw HTTP."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from deploy import gateway_process, local
from deploy.gateway import GatewayOptions, PublicModel
from deploy.gateway_process import Gateway
from deploy.local import JAVA_CLASS, ServedModel, Server
from model_configs import ROOT
from servekit.golden import Golden
from tests.fakes.torchserve_process import GOLDEN_ANSWER, GOLDEN_BODY

WELL_TIMEOUT_S = 15.0
QUIET_S = 1.0
FAKES = 250
"""Where the ports of scripted TorchServes begin, from the gateway's on: tests leave 20 from one gateway to the next."""
GOLDEN = Golden(dict(GOLDEN_BODY), "vectors", list(GOLDEN_ANSWER), 0.0001)
MODELS = (PublicModel("m", ("embeddings",)),)


class Fake:
    """A scripted TorchServe. server: as deploy.local knows it."""

    def __init__(self, port: int, run_dir: Path, token: str | None = None, models: tuple[str, ...] = ("m",)) -> None:
        self.folder = run_dir / str(port)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.control()
        command = [sys.executable, "-m", "tests.fakes.torchserve_process", str(port), str(self.folder), JAVA_CLASS]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        served = tuple(ServedModel(name, "1.0", f"{name}.mar", 1, 60, GOLDEN) for name in models)
        if token:
            keys = {"inference": {"key": token}, "management": {"key": token}}
            (self.folder / local.KEY_FILE).write_text(json.dumps(keys))
        self.server = Server(self.process.pid, port, token is not None, self.folder, self.folder / "none", served)
        local._write(self.server)

    def control(self, **changes: Any) -> None:
        """What describe-model and the golden request are answered with from now on."""
        fresh = self.folder / "control.new"
        fresh.write_text(json.dumps({"workers": [["READY", 1001]], **changes}))
        fresh.replace(self.folder / "control.json")

    def requests(self, at_least: int = 0) -> list[dict[str, Any]]:
        """What came so far, golden requests left out. A line is written when its request has ended."""
        deadline = time.monotonic() + 5
        while True:
            lines = [json.loads(line) for line in (self.folder / "requests.jsonl").read_text().splitlines()]
            if len(lines) >= at_least or time.monotonic() > deadline:
                return [line | {"body": base64.b64decode(line["body"])} for line in lines]
            time.sleep(0.01)

    def kill(self) -> None:
        """As kill -9 does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        if self.process.stdout:
            self.process.stdout.close()


@dataclass
class Running:
    """A gateway before scripted TorchServes."""

    gateway: Gateway
    options: GatewayOptions
    fakes: list[Fake]

    @property
    def port(self) -> int:
        return self.gateway.port

    def ask(
        self,
        method: str = "POST",
        path: str = "/invocations",
        script: dict[str, Any] | bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            body = script if isinstance(script, bytes) else json.dumps(script or {}).encode()
            connection.request(method, path, body if method in ("POST", "PUT") else None, headers or {})
            found = connection.getresponse()
            return Reply(found.status, {name.lower(): value for name, value in found.getheaders()}, found.read())
        finally:
            connection.close()

    def exchange(self) -> None:
        """What a rolling restart does with the first slot: a new TorchServe in the place of the old one, which ends."""
        old = self.fakes[0]
        port = old.server.port
        fresh = Fake(port + 5 if port % 10 == (self.port + FAKES) % 10 else port - 5, old.folder.parent)
        gateway_process.start_before(self.gateway, fresh.server, self.options)
        self.gateway = gateway_process.plug(self.gateway, 0, fresh.server)
        self.fakes[0] = fresh
        assert gateway_process.unplugged(self.gateway, port, 10)
        old.kill()

    def wait(self, is_there: Callable[[], bool], timeout_s: float = WELL_TIMEOUT_S) -> None:
        """Until it is so."""
        deadline = time.monotonic() + timeout_s
        while not is_there():
            assert time.monotonic() < deadline, self.gateway.problems()
            time.sleep(0.02)

    def wait_well(self) -> None:
        self.wait(lambda: not self.gateway.problems())


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, str]:
        """OpenAI's error object, which must be all that the body holds."""
        document = json.loads(self.body)
        assert list(document) == ["error"]
        error: dict[str, str] = document["error"]
        assert sorted(error) == ["code", "message", "type"]
        return error


@contextmanager
def running(folder: Path, port: int, *, tokens: tuple[str | None, ...] = (None,), **options: Any) -> Iterator[Running]:
    """A gateway before as many scripted TorchServes as there are tokens, None for one that asks for none.

    control: of all of them, from the start.
    """
    control: dict[str, Any] = options.pop("control", {})
    models: tuple[PublicModel, ...] = options.pop("models", MODELS)
    run_dir = folder / "run"
    with ExitStack() as stack:
        fakes = []
        for place, token in enumerate(tokens):
            fake = Fake(port + FAKES + 10 * place, run_dir, token, tuple(model.name for model in models))
            stack.callback(fake.kill)
            fake.control(**control)
            fakes.append(fake)
        wanted = GatewayOptions(run_dir / str(port), port, models, slots=len(tokens), **options)
        gateway = gateway_process.start(wanted, [fake.server for fake in fakes])
        stack.callback(gateway_process.sweep, gateway.folder)
        found = Running(gateway, wanted, fakes)
        yield found
        for fake in found.fakes:
            fake.kill()


def raw(port: int, data: bytes, timeout_s: float = 5.0) -> bytes:
    """Bytes out, bytes in, until the other side ends the connection or says nothing for a moment."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as wire:
        wire.sendall(data)
        wire.settimeout(timeout_s)
        found = b""
        try:
            while piece := wire.recv(1 << 16):
                found += piece
                wire.settimeout(QUIET_S)
        except (TimeoutError, ConnectionResetError):
            pass
        return found


def processes_in(folder: Path) -> list[psutil.Process]:
    """Whatever has this folder, or one in it, as its working directory or in its command line."""
    found = []
    for process in psutil.process_iter():
        try:
            words = " ".join(process.cmdline())
            if process.pid != os.getpid() and (str(folder) in words or process.cwd().startswith(str(folder))):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
