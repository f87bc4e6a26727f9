"""A real TorchServe, started by the real command line, for all tests of this folder."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from archives import build
from deploy import local, readiness
from deploy.render import Ports, ServerOptions
from model_configs import ROOT
from model_configs.archive_files import read_golden
from model_configs.schema import load_file

PORT = 18080


def kit(*arguments: str, timeout_s: float = 300, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run kit.py as a user does."""
    command = [sys.executable, "kit.py", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=timeout_s, check=False)


def read_until_ready(serve: subprocess.Popen[str]) -> list[str]:
    """The lines that a foreground `serve` prints up to the last one before its log."""
    assert serve.stdout is not None
    lines = []
    for line in serve.stdout:
        lines.append(line)
        if line.startswith("metrics:"):
            break
    assert any(line.startswith("ready in ") for line in lines), "".join(lines)
    return lines


class Started:
    """A running server and what `serve --detach` printed."""

    def __init__(self, server: local.Server, output: str) -> None:
        self.server = server
        self.output = output
        self.document = json.loads(output.splitlines()[-1])
        self.url = f"http://127.0.0.1:{server.port}"
        self.token = server.token("inference")
        self.headers = {"Authorization": f"Bearer {self.token}"}

    def worker_pids(self) -> list[int]:
        reply = self.server.management().get("/models/minilm")
        return [worker["pid"] for worker in json.loads(reply.body)[0]["workers"]]


@contextmanager
def serving(name: str, port: int, *options: str) -> Iterator[Started]:
    """A model served by `kit.py serve --detach`, stopped at the end."""
    result = kit("serve", name, "--detach", "--port", str(port), *options)
    assert result.returncode == 0, result.stdout + result.stderr
    try:
        (server,) = [server for server in local.servers() if server.port == port]
        yield Started(server, result.stdout)
    finally:
        kit("stop", "--port", str(port))


@contextmanager
def serving_file(yaml: str, folder: Path, port: int) -> Iterator[local.Server]:
    """A model of a YAML that is not in the project, ready, stopped at the end. folder: for all that it needs."""
    file = folder / "model.yaml"
    file.write_text(yaml)
    config = load_file(file)
    archive = build.build(config, folder / "store")
    served = local.served_model(config, archive.path.name, read_golden(archive.path))
    options = ServerOptions(store=folder / "store", ports=Ports(port), auth=False)
    server = local.start(options, [served], folder / "run")
    try:
        readiness.wait_ready(server)
        yield server
    finally:
        local.stop(server)


@pytest.fixture(scope="session")
def started() -> Iterator[Started]:
    """For files behind test_readme.py alone: the README's `kit.py stop` ends every server of this project."""
    with serving("minilm", PORT) as server:
        yield server
