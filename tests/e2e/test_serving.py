"""What clients see of a running server."""

from __future__ import annotations

import json
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import psutil
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from deploy.local import ACCESS_FILE, LOG_FILE
from tests.e2e.conftest import Started, kit
from tests.handlers.test_embedding_handler import BAD_REQUESTS
from tests.handlers.test_parity import cosines

TEXTS = ["hello world", "TorchServe gets no more releases.", "Ein Satz über Zürich.", "long " * 300]


@pytest.fixture(scope="module")
def reference(minilm_weights: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(minilm_weights), device="cpu").encode(TEXTS)


def post(started: Started, path: str, body: bytes, headers: dict[str, str]) -> requests.Response:
    return requests.post(started.url + path, data=body, headers={**started.headers, **headers}, timeout=30)


def test_openai_client_curl_and_sentence_transformers_agree(started: Started, reference: Any) -> None:
    client = openai.OpenAI(base_url=f"{started.url}/predictions/minilm/1.0/v1", api_key=started.token)
    assert [model.id for model in client.models.list()] == ["minilm"]
    reply = client.embeddings.create(input=TEXTS, model="minilm")  # the client asks for base64 by itself
    by_openai = [item.embedding for item in reply.data]
    floats = client.embeddings.create(input=TEXTS, model="minilm", encoding_format="float")
    curl = subprocess.run(
        [
            "curl", "-sf", "-H", f"Authorization: Bearer {started.token}", "-H", "Content-Type: application/json",
            "-d", json.dumps({"inputs": TEXTS}), f"{started.url}/predictions/minilm",
        ],
        capture_output=True,
        check=True,
    )  # fmt: skip
    by_curl = json.loads(curl.stdout)
    assert np.array_equal(np.asarray(by_openai, dtype=np.float32), np.asarray(by_curl, dtype=np.float32))
    assert np.array_equal(
        np.asarray([item.embedding for item in floats.data], dtype=np.float32), np.asarray(by_curl, dtype=np.float32)
    )
    assert cosines(by_curl, reference).min() >= 0.99999
    assert reply.usage.total_tokens == reply.usage.prompt_tokens > 4


def test_the_printed_curl_lines_work_as_they_stand(started: Started) -> None:
    lines = [line for line in started.output.splitlines() if line.startswith("curl ")]
    assert len(lines) == 2
    first, second = (subprocess.run(f"{line} -sf", shell=True, capture_output=True, check=True) for line in lines)
    assert len(json.loads(first.stdout)) == 384
    assert len(json.loads(second.stdout)["data"]) == 2


def test_openai_errors_are_typed(started: Started) -> None:
    client = openai.OpenAI(base_url=f"{started.url}/predictions/minilm/1.0/v1", api_key=started.token, max_retries=0)
    with pytest.raises(openai.NotFoundError, match="'ada' is not served here"):
        client.embeddings.create(input="a", model="ada")
    with pytest.raises(openai.UnprocessableEntityError, match="is empty"):
        client.embeddings.create(input="", model="minilm")
    assert len(client.embeddings.create(input="a", model="minilm", dimensions=64).data[0].embedding) == 64


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b'{"inputs": ["a", "b"]}', {"Content-Type": "application/json"}),
        (b"a", {"Content-Type": "text/plain"}),
        (b"a", {}),
    ],
)
def test_invocations_answer_as_predictions_do(started: Started, body: bytes, headers: dict[str, str]) -> None:
    by_sagemaker = post(started, "/invocations", body, headers)
    by_torchserve = post(started, "/predictions/minilm", body, headers)
    assert by_sagemaker.status_code == by_torchserve.status_code == 200
    assert by_sagemaker.content == by_torchserve.content
    assert by_sagemaker.headers["content-type"] == "application/json"


RAW_BAD = [
    (400, b"a=b&c", {"Content-Type": "application/x-www-form-urlencoded"}),
    (400, b"%zz%", {"Content-Type": "application/x-www-form-urlencoded"}),
    (400, b"no boundary at all", {"Content-Type": "multipart/form-data; boundary=x"}),
    (400, b"no boundary named", {"Content-Type": "multipart/form-data"}),
    (413, b"x" * 7_000_000, {"Content-Type": "text/plain"}),
]


def test_a_worker_survives_every_bad_request(started: Started) -> None:
    """One after the other, then all at once with good ones among them."""
    pids = started.worker_pids()
    bad = [(s, b"a=b" if b is None else b, h) for s, code, (b, h) in BAD_REQUESTS if code != "text_too_long"]
    bad.append(
        (413, json.dumps({"inputs": "fox " * 400, "truncate": False}).encode(), {"Content-Type": "application/json"})
    )

    def send(request: tuple[int, bytes, dict[str, str]]) -> tuple[int, int, str]:
        status, body, headers = request
        path = "/predictions/minilm/1.0/" + headers.get("url_path", "")
        reply = post(started, path, body, {k: v for k, v in headers.items() if k != "url_path"})
        return status, reply.status_code, reply.text[:200]

    good = (200, b"hello", {"Content-Type": "text/plain"})
    expected = post(started, "/predictions/minilm", b"hello", {"Content-Type": "text/plain"}).json()
    for request in [*bad, *RAW_BAD]:
        wanted, found, text = send(request)
        assert found == wanted, text
    with ThreadPoolExecutor(16) as pool:
        mixed = [request for pair in zip(bad * 3, [good] * len(bad) * 3, strict=True) for request in pair]
        for wanted, found, text in pool.map(send, mixed):
            assert found == wanted, text
    after = post(started, "/predictions/minilm", b"hello", {"Content-Type": "text/plain"}).json()
    assert cosines([after], [expected])[0] >= 0.999999
    assert started.worker_pids() == pids


def test_everybody_gets_their_own_answer(started: Started) -> None:
    texts = [f"text number {n} " + "word " * (n % 40) for n in range(96)]
    body = json.dumps({"inputs": texts}).encode()
    expected = post(started, "/predictions/minilm", body, {"Content-Type": "application/json"}).json()
    with ThreadPoolExecutor(32) as pool:
        replies = list(
            pool.map(lambda t: post(started, "/predictions/minilm", t.encode(), {"Content-Type": "text/plain"}), texts)
        )
    assert cosines([reply.json() for reply in replies], expected).min() >= 0.99999


def test_large_replies_of_a_whole_batch(started: Started) -> None:
    """32 requests of 256 texts each are 38 MB of vectors in one message from the worker."""
    pids = started.worker_pids()
    body = json.dumps({"inputs": ["hello"] * 256}).encode()
    with ThreadPoolExecutor(32) as pool:
        sent = [
            pool.submit(post, started, "/predictions/minilm", body, {"Content-Type": "application/json"})
            for _ in range(32)
        ]
        replies = [reply.result() for reply in sent]
    assert [reply.status_code for reply in replies] == [200] * 32
    assert {len(reply.json()) for reply in replies} == {256}
    assert started.worker_pids() == pids


def test_nothing_listens_beyond_loopback(started: Started) -> None:
    addresses = {
        c.laddr.ip for c in psutil.Process(started.server.pid).net_connections() if c.status == psutil.CONN_LISTEN
    }
    assert {address.removeprefix("::ffff:") for address in addresses} <= {"127.0.0.1", "::1"}


def test_tokens_are_asked_for(started: Started) -> None:
    for url in (f"{started.url}/predictions/minilm", f"http://127.0.0.1:{started.server.ports.management}/models"):
        assert requests.get(url, timeout=10).status_code == 400
        assert requests.get(url, headers={"Authorization": "Bearer wrong"}, timeout=10).status_code == 400
    assert (started.server.folder / "key_file.json").stat().st_mode & 0o077 == 0
    assert kit("token", "--port", str(started.server.port)).stdout.strip() == started.token


def test_models_cannot_be_registered_or_removed(started: Started) -> None:
    management = started.server.management()
    url = f"http://127.0.0.1:{started.server.ports.management}/models"
    headers = {"Authorization": f"Bearer {started.server.token('management')}"}
    assert requests.post(f"{url}?url=http://127.0.0.1:1/x.mar", headers=headers, timeout=10).status_code == 405
    assert requests.delete(f"{url}/minilm", headers=headers, timeout=10).status_code == 405
    assert management.get("/models/minilm").status == 200


def test_metrics_have_histograms(started: Started) -> None:
    post(started, "/predictions/minilm", b"hello " * 400, {"Content-Type": "text/plain"})
    text = started.server.metrics().get("/metrics").body.decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for name in (
        "servekit_tokenize_seconds",
        "servekit_forward_seconds",
        "servekit_batch_fill_ratio",
        "servekit_padding_waste_ratio",
    ):
        assert families[name].type == "histogram"
        counts = [sample.value for sample in families[name].samples if sample.name == f"{name}_count"]
        assert counts[0] > 0
    assert families["QueueTime"].type == "histogram"
    assert families["servekit_truncated_texts"].samples[0].value >= 1


def test_one_json_access_line_a_request_and_no_other(started: Started) -> None:
    access, log = started.server.folder / ACCESS_FILE, started.server.folder / LOG_FILE
    before = len(access.read_text().splitlines()), log.read_text()
    for number in range(20):
        post(started, f"/predictions/minilm?n={number}", b"hello", {"Content-Type": "text/plain"})
    reply = post(started, '/predictions/minilm/"<%22>\\', b"hello", {"Content-Type": "text/plain"})
    deadline = time.monotonic() + 10  # the lines are written behind the replies
    while len(access.read_text().splitlines()) < before[0] + 21 and time.monotonic() < deadline:
        time.sleep(0.1)
    lines = [json.loads(line) for line in access.read_text().splitlines()[before[0] :]]
    assert len(lines) == 21
    assert {(line["method"], line["status"]) for line in lines[:20]} == {("POST", 200)}
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:", line["time"]) and line["ms"] >= 0 for line in lines)
    assert lines[20]["status"] == reply.status_code
    assert log.read_text() == before[1]


def test_probe_and_status_tell_the_truth(started: Started) -> None:
    for verb in (["probe", "minilm", "--port", str(started.server.port)], ["status"]):
        result = kit(*verb)
        assert result.returncode == 0, result.stdout + result.stderr
        document = json.loads(result.stdout.splitlines()[-1])
        assert document["ready"]
        assert {(row["workers_ready"], row["problem"]) for row in document["models"]} == {(1, "")}


def test_a_worker_that_dies_is_seen_and_comes_back(started: Started) -> None:
    (pid,) = started.worker_pids()
    psutil.Process(pid).kill()
    assert requests.get(f"{started.url}/ping", headers=started.headers, timeout=10).json()["status"] == "Healthy"
    result = kit("probe", "minilm", "--port", str(started.server.port))
    assert result.returncode == 1
    assert "0 of 1 workers are READY" in json.loads(result.stdout.splitlines()[-1])["models"][0]["problem"]
    deadline = time.monotonic() + 60
    while kit("probe", "minilm", "--port", str(started.server.port)).returncode != 0:
        assert time.monotonic() < deadline, (started.server.folder / LOG_FILE).read_text()
        time.sleep(0.5)
    assert started.worker_pids() != [pid]
