"""The cpu image, really built and run: `make test-image`."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from archives import build
from model_configs import ROOT
from model_configs.archive_files import read_golden
from model_configs.schema import load_model
from tests.fakes.buildah import Buildah, buildah, pip_configuration

pytestmark = pytest.mark.image
PORT = 22200
TAG = "servekit:cpu"
READY_S = 120


@pytest.fixture(scope="module")
def tool() -> Iterator[Buildah]:
    with buildah() as made:
        yield made


@pytest.fixture(scope="module")
def image(tool: Buildah) -> dict[str, Any]:
    """Its configuration, once it is built."""
    started = time.monotonic()
    base = tool.make_base()
    based_s = time.monotonic() - started
    tool.build(ROOT / "docker" / "cpu" / "Dockerfile", TAG, BASE=base, TORCH_INDEX=os.environ.get("TORCH_INDEX", ""))
    size = tool("images", "--format", "{{.Size}}", TAG)
    print(f"\nbase in {based_s:.0f} s, image of {size} in {time.monotonic() - started - based_s:.0f} s more")
    return tool.config(TAG)["config"]


@pytest.fixture(scope="module")
def container(tool: Buildah, image: dict[str, Any]) -> str:
    return tool("from", TAG)


@pytest.fixture(scope="module")
def root(tool: Buildah, container: str) -> Path:
    """The container's files, seen from here."""
    return Path(tool("mount", container))


@pytest.fixture(scope="module")
def minilm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build.build(load_model("minilm"), archive_format="no-archive").path


def test_it_says_what_platforms_ask_for(image: dict[str, Any]) -> None:
    assert image["Entrypoint"] == ["/opt/venv/bin/python", "/opt/servekit/docker/entrypoint.py"]
    assert not image.get("Cmd")
    assert image["User"] == "1000"
    assert image["ExposedPorts"] == {"8080/tcp": {}}
    assert image["Labels"]["com.amazonaws.sagemaker.capabilities.accept-bind-to-port"] == "true"
    assert image["Healthcheck"]["Test"][0] == "CMD"


def test_it_can_install_and_compile_nothing(root: Path) -> None:
    packages = root / "opt/venv/lib/python3.11/site-packages"
    assert (packages / "torch").is_dir()
    assert not list(packages.glob("pip*"))
    for program in ("gcc", "g++", "cc", "make", "pip"):
        assert not list(root.glob(f"usr/bin/{program}")) + list(root.glob(f"opt/venv/bin/{program}")), program


def test_no_index_and_no_secret_is_in_it(root: Path, tool: Buildah, image: dict[str, Any]) -> None:
    config, mounts = pip_configuration()
    assert not (root / "etc/pip.conf").exists() or _is_empty(root / "etc/pip.conf")
    said = json.dumps(tool.config(TAG)) + "".join(
        path.read_text(errors="replace")
        for path in (root / "opt/servekit").rglob("*")
        if path.suffix in {".py", ".conf"}
    )
    for line in config.splitlines()[1:]:
        value = line.partition(" = ")[2]
        assert "/" not in value or value.startswith("/etc/ssl/") or value not in said, value
    for mount in mounts:  # buildah leaves the places where they were mounted
        left = root / mount.lstrip("/")
        assert mount.startswith("/etc/ssl/") or not left.exists() or _is_empty(left), mount


def _is_empty(path: Path) -> bool:
    return not list(path.iterdir()) if path.is_dir() else path.stat().st_size == 0


@contextmanager
def running(
    tool: Buildah, container: str, image: dict[str, Any], model: Path, output: Path, user: str
) -> Iterator[psutil.Process]:
    """The image's entrypoint with `serve`, as this user; its first process."""
    command = tool.run_command(
        container, *image["Entrypoint"], "serve", user=user, mounts=[f"{model}:/opt/ml/model:ro"],
        SAGEMAKER_BIND_TO_PORT=str(PORT), SERVEKIT_HOST="127.0.0.1",
    )  # fmt: skip
    with output.open("wb") as file:
        buildah_run = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while not (first := [p for p in psutil.Process(buildah_run.pid).children(True) if _is_entrypoint(p, image)]):
            assert buildah_run.poll() is None, output.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield first[0]
        assert buildah_run.wait(40) == 0, output.read_text()
    finally:
        if buildah_run.poll() is None:
            for process in psutil.Process(buildah_run.pid).children(recursive=True):
                process.kill()
            buildah_run.kill()
        buildah_run.wait(40)


def _is_entrypoint(process: psutil.Process, image: dict[str, Any]) -> bool:
    try:
        return process.cmdline() == [*image["Entrypoint"], "serve"]
    except psutil.Error:
        return False


@pytest.mark.parametrize("user", ["1000", "0"])
def test_it_serves_a_read_only_model_and_drains(
    tool: Buildah, container: str, image: dict[str, Any], root: Path, minilm_folder: Path, tmp_path: Path, user: str
) -> None:
    url, output = f"http://127.0.0.1:{PORT}", tmp_path / "output"
    golden = read_golden(minilm_folder)
    health = tool.run_command(
        container, *image["Healthcheck"]["Test"][1:], user=user, mounts=[], SAGEMAKER_BIND_TO_PORT=str(PORT)
    )
    shutil.rmtree(root / "tmp" / "servekit", ignore_errors=True)
    stamp = root / "stamp"
    stamp.touch()
    started = time.monotonic()
    assert subprocess.run(health, capture_output=True, check=False).returncode == 1
    with running(tool, container, image, minilm_folder, output, user) as first:
        while not _ready(url):
            assert time.monotonic() - started < READY_S, output.read_text()
            time.sleep(0.2)
        print(f"\nready as user {user} after {time.monotonic() - started:.0f} s")
        assert subprocess.run(health, capture_output=True, check=False).returncode == 0
        assert first.uids().effective == int(user)
        reply = requests.post(f"{url}/invocations", json=golden.body, timeout=30)
        assert reply.status_code == 200, reply.text
        assert golden.verdict(reply.content) == ""
        assert requests.get(f"{url}/models", timeout=10).status_code == 404
        under_way = [_send(json.dumps({"inputs": ["a longer text " * 100] * 8})) for _ in range(8)]
        time.sleep(0.5)  # nginx has read them; the model needs some seconds for all
        told = time.monotonic()
        first.send_signal(signal.SIGTERM)
        assert [connection.getresponse().status for connection in under_way] == [200] * 8
    assert time.monotonic() - told < 30
    assert "Traceback" not in output.read_text()
    assert '"path":"/invocations","status":200' in output.read_text()
    written = subprocess.run(
        ["find", root, "-newer", stamp, "-not", "-path", f"{root}/tmp*", "-type", "f"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert written.split() == []


def _send(body: str) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
    connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
    return connection


def _ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/ping", timeout=2).status_code == 200
    except requests.RequestException:
        return False


def test_a_folder_that_its_user_cannot_read_is_told(
    tool: Buildah, container: str, image: dict[str, Any], tmp_path: Path
) -> None:
    """As SageMaker's documentation warns: containers there are expected to run as root."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model").chmod(0o700)
    command = tool.run_command(
        container, *image["Entrypoint"], "serve", user="1000", mounts=[f"{tmp_path / 'model'}:/opt/ml/model:ro"]
    )
    refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "error: user 1000 cannot read /opt/ml/model" in refused.stderr
    assert "--build-arg RUN_AS=0" in refused.stderr
