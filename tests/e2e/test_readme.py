"""The README's commands, run as they stand, in the order in which they stand."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import requests

from deploy import local
from model_configs import ROOT
from tests.e2e.conftest import read_until_ready

BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PORT = 8080


def blocks() -> list[tuple[str, str]]:
    return [(match[1], match[2]) for match in BLOCK.finditer((ROOT / "README.md").read_text())]


def run(language: str, code: str) -> str:
    command = ["bash", "-euo", "pipefail", "-c", code] if language == "bash" else [".venv/bin/python", "-c", code]
    with tempfile.TemporaryFile("w+") as output:  # not a pipe: torchserve by hand keeps it open
        result = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, timeout=300, check=False)
        output.seek(0)
        text = output.read()
    assert result.returncode == 0, f"{code}\n{text}"
    return text


def run_under_load(language: str, code: str) -> str:
    """Where other work makes the generator late, the run says that it proves nothing; then it is made again."""
    for _ in range(3):
        try:
            return run(language, code)
        except AssertionError as error:
            if "error: not valid: the generator sent late" not in str(error):
                raise
            shutil.rmtree(ROOT / ".run" / "readme-run")
    pytest.fail("three runs, and the generator was late in all: this machine is too busy for the test")


@pytest.fixture
def port_8080() -> None:
    """The README's port has to be free: it says 8080, and a test must not stop somebody's server."""
    if any(server.port == PORT for server in local.servers()):
        pytest.skip(f"a server runs on port {PORT}: kit.py stop")


def test_every_block_is_known() -> None:
    """A new block needs a place in the test below."""
    first_words = [code.split()[0] for _, code in blocks()]
    assert first_words == [
        "make",
        "TOKEN=$(.venv/bin/python",
        "import",
        ".venv/bin/python",
        ".venv/bin/python",
        ".venv/bin/python",
        ".venv/bin/python",
        ".venv/bin/python",
        ".venv/bin/python",
        ".venv/bin/python",
        ".venv/bin/python",
        ".venv/bin/python",
        ".venv/bin/python",
        ".venv/bin/torchserve",
    ]


@pytest.mark.usefixtures("port_8080")
def test_the_commands_work() -> None:
    commands, curl, python, digits, llama, rag, plan, _, _, _, load, verbs, by_hand, stop = blocks()
    assert commands[1].splitlines() == ["make serve", "make test"]
    assert "pytest" in run("bash", "make -n test")
    serve = subprocess.Popen(
        ["make", "serve"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        read_until_ready(serve)
        assert "[[" in run(*curl)  # the second reply is a list of vectors
        assert run(*python).split() == ["2", "384", "6"]
        assert '[{"label":"7"' in run(*digits)  # beside the server on 8080
        assert "data: [DONE]" in run(*llama)
        answered = run(*rag)
        assert '"passages":[{"source":"with"' in answered
        assert '"sources":[' in answered
        assert "data: [DONE]" in answered
        assert "75 % used" in run(*plan)
        assert "PASS  digits" in run_under_load(*load)
        assert '"ready": true' in run(*verbs)
    finally:
        if serve.poll() is None:
            os.killpg(serve.pid, signal.SIGINT)
        serve.communicate(timeout=60)
    assert serve.returncode == 0  # kit.py stop is an orderly end
    try:
        run(*by_hand)
        wait_for_answer(ROOT / "key_file.json")
    finally:
        run(*stop)
        wait_until_gone()


@pytest.mark.deploy
def test_the_commands_of_the_gateway_and_of_deploying_work() -> None:
    gateway, sagemaker, ec2 = blocks()[7:10]
    said = run(*gateway)
    assert '[{"label":"7"' in said
    assert '"lost": false' in said
    said = run(*sagemaker)
    assert '"on": "emulator", "text": "' in said
    assert '"emulator_stopped": true' in said
    said = run(*ec2)
    assert "InService  healthy" in said
    assert '"emulator_stopped": true' in said


def wait_for_answer(key_file: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        time.sleep(1)
        try:
            token = json.loads(key_file.read_text())["inference"]["key"]
            reply = requests.post(
                f"http://127.0.0.1:{PORT}/predictions/minilm",
                data="hello",
                headers={"Authorization": f"Bearer {token}", "Content-Type": "text/plain"},
                timeout=60,
            )
        except (OSError, ValueError):
            continue
        if reply.status_code == 200:
            assert len(reply.json()) == 384
            return
    pytest.fail("TorchServe by hand gave no answer in 120 s")


def wait_until_gone() -> None:
    deadline = time.monotonic() + 60
    while any(local.JAVA_CLASS in (process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])):
        assert time.monotonic() < deadline
        time.sleep(0.5)
