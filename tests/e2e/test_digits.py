"""The classifier as users meet it: real digit images, sent by curl, to a real TorchServe."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from deploy import local
from model_configs import ROOT
from tests.e2e.conftest import kit, serving
from tests.fakes.tiny_classifiers import image_file

PORT = 18380
PAYLOADS = ROOT / "loadtest" / "payloads" / "digits"


@pytest.fixture(scope="module")
def digits() -> Iterator[tuple[local.Server, str]]:
    with serving("digits", PORT, "--no-auth") as started:
        yield started.server, started.output


def url(server: local.Server) -> str:
    return f"http://127.0.0.1:{server.port}/predictions/digits"


def workers(server: local.Server) -> list[int]:
    return [worker["pid"] for worker in json.loads(server.management().get("/models/digits").body)[0]["workers"]]


def test_the_printed_curl_line_works(digits: tuple[local.Server, str]) -> None:
    (line,) = [line for line in digits[1].splitlines() if line.startswith("curl ")]
    reply = subprocess.run(f"{line} -sf", shell=True, cwd=ROOT, capture_output=True, check=True)
    labels = json.loads(reply.stdout)
    assert labels[0]["label"] == "0"  # the first of the payloads, by name
    assert sum(each["score"] for each in labels) <= 1.0001


@pytest.mark.parametrize(
    "options", [["-T", "FILE"], ["-F", "data=@FILE"], ["--data-binary", "@FILE", "-H", "Content-Type: image/png"]]
)
def test_curl_sends_an_image_in_every_way(digits: tuple[local.Server, str], options: list[str]) -> None:
    for digit in range(10):
        file = sorted(PAYLOADS.glob(f"{digit}-*.png"))[0]
        call = ["curl", "-sf", *(option.replace("FILE", str(file)) for option in options), url(digits[0])]
        reply = subprocess.run(call, capture_output=True, check=True)
        assert json.loads(reply.stdout)[0]["label"] == str(digit)


def test_many_clients_get_their_own_answers_between_bad_ones(digits: tuple[local.Server, str]) -> None:
    server = digits[0]
    before = workers(server)
    files = sorted(PAYLOADS.iterdir())
    bad = [b"", b"no image", files[0].read_bytes()[:40], image_file(size=(1, 200)), b"\x89PNG\r\n\x1a\n" * 9]

    def post(body: bytes) -> requests.Response:
        headers = {"Content-Type": "application/octet-stream"}
        return requests.post(url(server), data=body, headers=headers, timeout=30)

    def answer(file: Path) -> str:
        reply = post(file.read_bytes())
        assert reply.status_code == 200, reply.text
        return str(reply.json()[0]["label"])

    with ThreadPoolExecutor(16) as pool:
        refused = [pool.submit(post, body) for body in bad * 8]
        labels = list(pool.map(answer, files))
    statuses = {reply.result().status_code for reply in refused}
    assert statuses <= {400, 422}
    right = [label == file.name[0] for label, file in zip(labels, files, strict=True)]
    assert sum(right) >= 0.95 * len(files)
    assert workers(server) == before


def test_the_readiness_probe_asks_for_scores(digits: tuple[local.Server, str]) -> None:
    result = kit("probe", "digits", "--port", str(PORT))
    assert result.returncode == 0, result.stdout
    assert json.loads(result.stdout.splitlines()[-1])["ready"]
