"""kit.py invoke and ask as users run them: on TorchServe here, and on endpoints of the emulator with fake containers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Started, kit
from tests.fakes.container import TOKENS
from tests.fakes.emulated import Emulated, emulated

PORT = 21570
TEXT = "".join(TOKENS)


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulated]:
    folder = tmp_path_factory.mktemp("emulator")
    with emulated(PORT, folder) as made, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERVEKIT_EMULATOR_FOLDER", str(folder))
        made.model("m")
        made.config("c", "m")
        made.endpoint("servekit-pydoc-llama", "c")
        yield made


def invoke(*arguments: str) -> subprocess.CompletedProcess[str]:
    return kit("invoke", *arguments, timeout_s=60)


def test_a_model_on_this_machine(started: Started, tmp_path: Path) -> None:
    file = tmp_path / "reply.json"
    done = invoke("minilm", "hello", "--port", str(started.server.port), "--json", str(file))
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 384
    assert json.loads(file.read_text())["model"] == "minilm"


def test_tokens_of_an_endpoint_and_what_they_took(aws: Emulated) -> None:
    done = invoke("pydoc-llama", "x", "--on", "emulator")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert done.stdout.startswith(f"{TEXT}\n")
    assert (document["text"], document["pieces"], document["on"]) == (TEXT, len(TOKENS), "emulator")


def test_a_file_to_an_endpoint_by_its_name(aws: Emulated, tmp_path: Path) -> None:
    aws.endpoint("other", "c")
    (tmp_path / "body.json").write_text('{"large": 5}')
    done = invoke("minilm", "--file", str(tmp_path / "body.json"), "--on", "emulator", "--endpoint", "other")
    assert (done.returncode, done.stdout) == (0, "xxxxx\n")


def test_a_stream_that_breaks_keeps_what_came_and_exits_with_1(aws: Emulated) -> None:
    aws.running.inject(break_streams=1, after_bytes=40)
    done = invoke("pydoc-llama", "x", "--on", "emulator")
    assert done.returncode == 1
    assert done.stdout == "An"
    assert "error: servekit-pydoc-llama: the stream broke: ModelStreamError" in done.stderr


def test_the_emulator_shows_itself_and_fails_on_request(aws: Emulated) -> None:
    shown = kit("emulator", "--fault", "refusals=1", "--fault", "slow_s=0")
    assert shown.returncode == 0, shown.stderr
    document = json.loads(shown.stdout.splitlines()[-1])
    assert document["faults"]["refusals"] == 1
    assert "servekit-pydoc-llama" in [each["name"] for each in document["endpoints"]]
    assert "ServiceUnavailable" in invoke("pydoc-llama", "x", "--on", "emulator").stderr
    unknown = kit("emulator", "--fault", "fail_everything=1")
    assert (unknown.returncode, "fail_everything" in unknown.stderr) == (1, True)


def test_silence_ends_when_it_is_told(aws: Emulated, tmp_path: Path) -> None:
    (tmp_path / "body.json").write_text('{"sleep_s": 5}')
    done = invoke("pydoc-llama", "--file", str(tmp_path / "body.json"), "--on", "emulator", "--timeout-s", "0.3")
    assert done.returncode == 1
    assert "Read timeout" in done.stderr


def test_an_endpoint_that_is_not_there_is_told(aws: Emulated) -> None:
    done = invoke("pydoc-llama", "x", "--on", "emulator", "--endpoint", "none")
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: none: ValidationError: Endpoint none of account 123456789012 not found." in done.stderr


def test_an_emulator_that_is_ended_is_gone(aws: Emulated) -> None:
    assert kit("emulator", "--stop").returncode == 0
    gone = kit("emulator")
    assert (gone.returncode, gone.stderr) == (1, "error: no emulator runs here\n")
