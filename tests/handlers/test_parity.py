"""The handler, compiled ahead of time, against sentence-transformers' own encode on the real MiniLM."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archives import STORE
from archives.build import build, unpack
from embedding_handler import EmbeddingHandler
from model_configs.schema import AnyModelConfig
from servekit.settings import EmbeddingSettings
from tests.fakes.context import ask, make_context

JSON = {"Content-Type": "application/json"}
MIN_COSINES = {"fp32": 0.99999, "bf16": 0.999, "int8": 0.98}
WORDS = [
    "time",
    "person",
    "year",
    "way",
    "day",
    "thing",
    "man",
    "world",
    "life",
    "hand",
    "part",
    "child",
    "eye",
    "woman",
    "place",
    "work",
    "week",
    "case",
    "point",
]
ODD = [
    "a",
    "  spaced   out \n",
    "ÅÉÎ naïve café",
    "東京は日本の首都です",
    "🙂🙃",
    "x" * 500,
    "e\u0301 vs \u00e9",
    "NUL \x00 in it",
    "1234567890 " * 30,
]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Lengths from 1 to 600 words' tokens, and texts that tokenizers treat differently."""
    rng = random.Random(7)
    lengths = [*range(1, 40), *range(40, 260, 11), 253, 254, 255, 256, 257, 300, 450, 600]
    return [" ".join(rng.choices(WORDS, k=length)) for length in lengths] + ODD


@pytest.fixture(scope="module")
def reference(texts: list[str], minilm_weights: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(minilm_weights), device="cpu").encode(texts, batch_size=8)


@pytest.fixture(
    scope="module",
    params=[*MIN_COSINES][:1] + [pytest.param(precision, marks=pytest.mark.slow) for precision in [*MIN_COSINES][1:]],
)
def served(
    request: pytest.FixtureRequest, minilm: AnyModelConfig, tmp_path_factory: pytest.TempPathFactory
) -> tuple[EmbeddingHandler, Any]:
    settings = {"compile": {"mode": "aot", "precision": request.param, "require_artifacts": True}}
    config = minilm
    if request.param != "fp32":  # a store of its own: the project's keeps the model's own archive
        config = minilm.model_copy(update={"handler": EmbeddingSettings.model_validate(settings)})
    archive = build(config, STORE if config is minilm else tmp_path_factory.mktemp("store"))
    root = unpack(archive.path, tmp_path_factory.mktemp("minilm"))
    context = make_context(root, {"handler": settings}, batch_size=32)
    handler = EmbeddingHandler()
    handler.initialize(context)
    assert handler.embedder.encoder.mode == ("aot" if request.param == "bf16" else "kernels")
    return handler, context


def least_cosine(served: tuple[EmbeddingHandler, Any]) -> float:
    return MIN_COSINES[served[0].settings.compile.precision]


def cosines(found: Any, expected: Any) -> Any:
    found, expected = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return (found * expected).sum(1) / norms


def test_each_text_alone(served: tuple[EmbeddingHandler, Any], texts: list[str], reference: Any) -> None:
    found = [json.loads(ask(*served, [(text.encode(), {})])[0][1]) for text in texts]
    assert cosines(found, reference).min() >= least_cosine(served)


def test_mixed_batches_in_any_order(served: tuple[EmbeddingHandler, Any], texts: list[str], reference: Any) -> None:
    order = list(range(len(texts)))
    for seed in range(3):
        random.Random(seed).shuffle(order)
        for start in range(0, len(order), 29):
            part = order[start : start + 29]
            replies = ask(*served, [(texts[index].encode(), {}) for index in part])
            found = [json.loads(body) for _, body in replies]
            assert cosines(found, reference[part]).min() >= least_cosine(served)


def test_many_texts_in_one_request(served: tuple[EmbeddingHandler, Any], texts: list[str], reference: Any) -> None:
    body = json.dumps({"inputs": texts}).encode()
    ((status, reply),) = ask(*served, [(body, JSON)])
    assert status == 200
    assert cosines(json.loads(reply), reference).min() >= least_cosine(served)


def test_vectors_have_length_one(served: tuple[EmbeddingHandler, Any], texts: list[str]) -> None:
    ((_, reply),) = ask(*served, [(json.dumps({"inputs": texts}).encode(), JSON)])
    np.testing.assert_allclose(np.linalg.norm(json.loads(reply), axis=1), 1.0, atol=1e-6)
