"""LangChain's and LlamaIndex's own OpenAI classes against a real TorchServe: the examples, run as users run them.

`make test-rag-clients` makes the environment that holds both libraries.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from model_configs import ROOT
from servekit.golden import cosine
from tests.e2e.conftest import Started, serving

PYTHON = ROOT / ".venv" / "rag" / "bin" / "python"
EXAMPLES = ROOT / "examples"
PORT = 18820
LIBRARIES = {
    "langchain_embeddings": ("embed_documents", "embed_query"),
    "llamaindex_embeddings": ("get_text_embedding_batch", "get_query_embedding"),
}
"""Examples, and how their library embeds texts and a question."""
TEXTS = ["A short one.", "  Ein Satz über Zürich,\n東京 und naïve Akzente. ", "long " * 400]
QUESTION = "Which of these is the long one?"
VECTORS = """
import importlib, json, sys
name, of_texts, of_question, url, token = sys.argv[1:]
texts, question = json.load(sys.stdin)
model = importlib.import_module(name).embeddings(url, token)
print(json.dumps([*getattr(model, of_texts)(texts), getattr(model, of_question)(question)]))
"""

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="no LangChain and LlamaIndex: make test-rag-clients")


@pytest.fixture(scope="module")
def minilm_server() -> Iterator[Started]:
    with serving("minilm", PORT) as started:
        yield started


@pytest.fixture(scope="module")
def expected(minilm_server: Started) -> list[list[float]]:
    """The vectors by the kit's own dialect."""
    reply = requests.post(
        f"{minilm_server.url}/predictions/minilm",
        json={"inputs": [*TEXTS, QUESTION]},
        headers=minilm_server.headers,
        timeout=60,
    )
    assert reply.status_code == 200, reply.text
    vectors: list[list[float]] = reply.json()
    return vectors


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_example_finds_the_document_that_answers(name: str, minilm_server: Started) -> None:
    printed = run(f"examples/{name}.py", "--url", minilm_server.url, "--token", str(minilm_server.token))
    assert printed.startswith("The with statement wraps a block")
    assert len(printed.splitlines()) == 1


@pytest.mark.parametrize("name", LIBRARIES)
def test_its_vectors_are_ours(name: str, minilm_server: Started, expected: list[list[float]]) -> None:
    arguments = ("-c", VECTORS, name, *LIBRARIES[name], minilm_server.url, str(minilm_server.token))
    found: list[Any] = json.loads(run(*arguments, given=json.dumps([TEXTS, QUESTION])))
    cosines = [cosine(own, theirs) for own, theirs in zip(expected, found, strict=True)]
    assert min(cosines) >= 0.9999, cosines


@pytest.mark.parametrize("name", LIBRARIES)
def test_without_the_token_the_library_says_so(name: str, minilm_server: Started) -> None:
    command = [str(PYTHON), f"examples/{name}.py", "--url", minilm_server.url, "--token", "wrong"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "oken" in done.stderr


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_example_is_short_enough_to_read(name: str) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= 40


def run(*arguments: str, given: str = "") -> str:
    """Run this with the environment's Python, in the project's root. Returns what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES)}
    done = subprocess.run(
        [str(PYTHON), *arguments],
        cwd=ROOT, env=environment, input=given, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout
