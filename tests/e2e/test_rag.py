"""Retrieval and the whole chain through the real TorchServe: index, two models, passages, answers, streams."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import requests
from openai import OpenAI

from tests.e2e.conftest import Started, kit, serving

PORT = 18820
QUESTION = "How does the with statement work?"


@pytest.fixture(scope="module")
def server() -> Iterator[Started]:
    made = kit("index", "pydoc-rag")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout.splitlines()[-1])["documents"] > 70
    with serving("pydoc-rag", PORT, "pydoc-llama") as found:
        yield found


def post(server: Started, path: str, **given: object) -> requests.Response:
    return requests.post(server.url + path, headers=server.headers, timeout=60, **given)  # type: ignore[arg-type]


def test_a_question_finds_its_topic(server: Started) -> None:
    reply = post(server, "/predictions/pydoc-rag", json={"query": QUESTION, "k": 3})
    assert reply.status_code == 200
    found = reply.json()
    assert "with" in [each["source"] for each in found["passages"]]
    assert QUESTION in found["prompt"]


def test_one_call_answers_with_sources(server: Started) -> None:
    body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 12}
    reply = post(server, "/predictions/pydoc-rag/1.0/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    answer = reply.json()
    assert answer["choices"][0]["message"]["content"]
    assert answer["usage"]["completion_tokens"] <= 12
    assert answer["sources"]


def test_openai_s_client_streams_an_answer(server: Started) -> None:
    client = OpenAI(base_url=f"{server.url}/predictions/pydoc-rag/1.0/v1", api_key=server.token, max_retries=0)
    stream = client.chat.completions.create(
        model="pydoc-rag", messages=[{"role": "user", "content": QUESTION}], stream=True, max_tokens=16
    )
    chunks = list(stream)
    assert (chunks[0].model_extra or {})["sources"]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_kit_ask_streams_the_answer_and_names_sources(server: Started) -> None:
    found = kit("ask", "pydoc-rag", QUESTION, "--max-tokens", "16")
    assert found.returncode == 0, found.stderr
    document = json.loads(found.stdout.splitlines()[-1])
    assert document["answer"]
    assert document["answer"].split()[0] in found.stdout
    assert {"source", "score", "title", "start"} == set(document["sources"][0])
    nowhere = kit("ask", "pydoc-rag", QUESTION, "--generator", "sagemaker:none", "--region", "us-east-1")
    assert nowhere.returncode in (1, 2)


def test_bad_requests_end_no_worker(server: Started) -> None:
    before = worker_pid(server)
    for body, status in ((b"", 422), (b"\xff", 400), (b'{"query": 1}', 422)):
        headers = {"Content-Type": "application/json" if body.startswith(b"{") else "text/plain"}
        url = f"{server.url}/predictions/pydoc-rag"
        reply = requests.post(url, body, headers=headers | server.headers, timeout=30)
        assert reply.status_code == status
    assert worker_pid(server) == before


def worker_pid(server: Started) -> int:
    models = json.loads(server.server.management().get("/models/pydoc-rag").body)
    return int(models[0]["workers"][0]["pid"])
