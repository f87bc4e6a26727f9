"""Two real TorchServes behind a real gateway, under an open loop of answers and streams: exchanged, killed, healed."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from archives import build
from deploy import gateway_process, gateway_serve, local
from model_configs import ROOT
from model_configs.schema import load_model
from tests.e2e.conftest import kit
from tests.fakes.gateways import processes_in

pytestmark = pytest.mark.deploy
PORT = 22520
MODEL = "pydoc-llama"
SHORT = {"inputs": "The with statement", "parameters": {"max_new_tokens": 2}}
STREAM = {"inputs": "The with statement", "parameters": {"max_new_tokens": 40}, "stream": True}
CLIENTS, RATE = 12, 30.0
"""Of kept connections, and requests a second of them all."""
EVERY_STREAM = 10
"""One of so many requests is a stream."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's own files in another folder, with what was prepared already: its models may be changed."""
    target = tmp_path_factory.mktemp("project")
    build.build(load_model(MODEL))
    for name in ("kit.py", "printing.py", "archives", "deploy", "handlers", "loadtest", "model_configs"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("store", "__pycache__"))
        else:
            shutil.copy(source, target)
    prepared = Path("archives/store/.prepared")
    shutil.copytree(ROOT / prepared, target / prepared, copy_function=os.link)
    return target


class Load:
    """An open loop: each request has its time, whatever became of those before it."""

    def __init__(self, port: int, token: str, streams: bool) -> None:
        self._port, self._token, self._streams = port, token, streams
        self._stop = threading.Event()
        self.found: Counter[str] = Counter()
        self._threads = [threading.Thread(target=self._client, args=(number,)) for number in range(CLIENTS)]

    @contextmanager
    def running(self) -> Iterator[Counter[str]]:
        for thread in self._threads:
            thread.start()
        try:
            yield self.found
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(60)

    def _client(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        began, sent = time.monotonic(), number
        while not self._stop.wait(max(0.0, began + sent / RATE - time.monotonic())):
            is_stream = self._streams and sent % EVERY_STREAM == 0
            try:
                self.found[self._ask(connection, is_stream)] += 1
            except (OSError, http.client.HTTPException) as error:
                self.found[repr(error)] += 1
                connection.close()
            sent += CLIENTS
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, is_stream: bool) -> str:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        connection.request("POST", "/invocations", json.dumps(STREAM if is_stream else SHORT), headers)
        reply = connection.getresponse()
        answer = reply.read()
        if reply.status != 200:
            return f"{reply.status} {answer[:100]!r}"
        if is_stream:  # its last event has the whole text
            last = json.loads(answer.strip().splitlines()[-1].removeprefix(b"data:"))
            return "stream" if last.get("generated_text") else f"cut: {answer[-100:]!r}"
        return "answer" if json.loads(answer)[0]["generated_text"] else f"wrong: {answer[:100]!r}"


def versions(gateway: gateway_process.Gateway) -> list[str]:
    return [server.models[0].version for server in gateway_serve.fleet(gateway)]


def test_nothing_is_lost(project: Path) -> None:
    options = ("--port", str(PORT), "--gateway", "--servers", "2", "--detach")
    served = kit("serve", MODEL, *options, root=project, timeout_s=280)
    assert served.returncode == 0, served.stdout + served.stderr
    try:
        (before,) = gateway_process.gateways(project / ".run")
        token = kit("token", "--port", str(PORT), root=project).stdout.strip()
        assert token.startswith("sk-")
        exchanged_under_load(project, before, token)
        killed_under_load(project, token)
        broken_one_does_not_replace(project)
    finally:
        stopped = kit("stop", "--port", str(PORT), root=project)
    assert stopped.returncode == 0, stopped.stderr
    assert processes_in(project) == []
    assert not [path for path in (project / ".run").rglob("*") if path.suffix in (".pid", ".sock", ".conf")]
    assert not list((project / ".run").rglob(local.KEY_FILE))


def exchanged_under_load(project: Path, before: gateway_process.Gateway, token: str) -> None:
    yaml = project / "model_configs" / f"{MODEL}.yaml"
    yaml.write_text(yaml.read_text().replace('version: "1.0"', 'version: "1.1"'))
    with Load(PORT, token, streams=True).running() as found:
        restarted = kit("restart", MODEL, root=project, timeout_s=280)
    assert restarted.returncode == 0, restarted.stdout + restarted.stderr
    assert not json.loads(restarted.stdout.splitlines()[-1])["lost"]
    assert set(found) == {"answer", "stream"}, found
    assert found["answer"] > 300
    assert found["stream"] > 30
    (after,) = gateway_process.gateways(project / ".run")
    assert set(after.servers) & set(before.servers) in (set(), {before.servers[0]})  # whose ports were free again
    assert versions(after) == ["1.1", "1.1"]
    status = kit("status", root=project)
    assert status.returncode == 0, status.stdout


def killed_under_load(project: Path, token: str) -> None:
    (gateway,) = gateway_process.gateways(project / ".run")
    first = gateway_serve.fleet(gateway)[0]
    with Load(PORT, token, streams=False).running() as found:
        time.sleep(3)
        psutil.Process(first.pid).kill()
        time.sleep(4)
    assert set(found) == {"answer"}, found
    assert kit("status", root=project).returncode == 1
    assert gateway.problems() == []  # the other one answers
    healed = kit("restart", MODEL, root=project, timeout_s=280)
    assert healed.returncode == 0, healed.stdout + healed.stderr
    assert kit("status", root=project).returncode == 0


def broken_one_does_not_replace(project: Path) -> None:
    (before,) = gateway_process.gateways(project / ".run")
    running = len(processes_in(project))
    handler = project / "handlers" / "llama_handler.py"
    text = handler.read_text()
    assert "quiet_worker()\n" in text
    handler.write_text(text.replace("quiet_worker()\n", 'quiet_worker()\n        raise KeyError("no weights")\n', 1))
    failed = kit("restart", MODEL, root=project, timeout_s=280)
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert "KeyError: 'no weights'" in failed.stderr
    assert gateway_process.gateways(project / ".run") == [before]
    assert kit("status", root=project).returncode == 0
    assert len(processes_in(project)) == running
