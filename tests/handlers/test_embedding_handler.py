"""The handler with a fake context and a tiny random model."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archives.assets import QUANTISER
from embedding_handler import EmbeddingHandler
from model_configs import HANDLERS_DIR
from servekit import fingerprint, pinning
from servekit.cpu_plan import made_up_machine
from servekit.encoders.families import INT8_LEVELS
from tests.fakes.context import ask, make_context
from tests.fakes.tiny_model import WORDS

JSON = {"Content-Type": "application/json"}
OPENAI = {**JSON, "url_path": "v1/embeddings"}
EAGER: dict[str, Any] = {
    "compile": {"mode": "eager"},
    "max_batch_texts": 4,
    "max_texts_per_request": 6,
    "warmup": {"batch_sizes": [1, 4]},
}

BAD_REQUESTS: list[tuple[int, str, tuple[bytes | None, dict[str, str]]]] = [
    (422, "empty_input", (b"", {})),
    (422, "empty_input", (b'{"inputs": ["a", ""]}', JSON)),
    (400, "invalid_utf8", (b"\xff\xfe\xfa", {})),
    (400, "invalid_json", (b'{"inputs": ["a"', JSON)),
    (422, "invalid_request", (b'{"inputs": 7}', JSON)),
    (422, "invalid_request", (b'{"texts": ["a"]}', JSON)),
    (400, "form_body", (None, {"Content-Type": "application/x-www-form-urlencoded"})),
    (400, "form_body", (b"x", {"Content-Type": "multipart/form-data; boundary=x"})),
    (413, "too_many_texts", (json.dumps({"inputs": ["a"] * 10_000}).encode(), JSON)),
    (413, "text_too_long", (json.dumps({"inputs": "fox " * 100, "truncate": False}).encode(), JSON)),
    (413, "body_too_large", (b"x" * 600_000, {})),
    (415, "unsupported_media_type", (b"\x89PNG", {"Content-Type": "image/png"})),
    (404, "model_not_found", (b'{"input": "a", "model": "ada"}', OPENAI)),
    (422, "invalid_request", (b'{"input": "a", "model": "minilm", "encoding_format": "int8"}', OPENAI)),
    (404, "unknown_path", (b"a", {"url_path": "v1/chat/completions"})),
]
GOOD_REQUESTS: list[tuple[bytes | None, dict[str, str]]] = [
    (b"the lazy fox", {}),
    (b'{"inputs": ["dog", "over the server text vector model"]}', JSON),
    (b'{"input": "jumps", "model": "minilm", "encoding_format": "base64"}', OPENAI),
]


MODES: dict[str, dict[str, Any]] = {
    "eager": EAGER["compile"],
    "aot": {"mode": "aot", "require_artifacts": True},
    "jit": {"mode": "jit", "batch_buckets": [4], "length_buckets": [32]},
    "bf16": {"mode": "aot", "require_artifacts": True, "precision": "bf16"},
    "int8": {"mode": "aot", "require_artifacts": True, "precision": "int8"},
    "kernels": {"mode": "aot", "require_artifacts": True},
    "kernels-int8": {"mode": "aot", "require_artifacts": True, "precision": "int8"},
}
QUICK = ("eager", "kernels", "kernels-int8")
"""The others compile for half a minute."""
IN_COMPANY = {"bf16": 0.02, "int8": 0.05}
"""How far a text's numbers may be from those that it gets alone; 1e-5 for float32, nothing for the kernels."""


@pytest.fixture(
    scope="module",
    params=[pytest.param(mode, marks=() if mode in QUICK else pytest.mark.slow) for mode in MODES],
)
def served(
    request: pytest.FixtureRequest, tiny_model: Path, wide_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[EmbeddingHandler, Any]:
    folder = tmp_path_factory.mktemp("served")
    by_kernels = request.param.startswith("kernels")
    if by_kernels and fingerprint.levels()[0] not in INT8_LEVELS:
        pytest.skip(f"the kernels' int8 is for {INT8_LEVELS}, this CPU is {fingerprint.levels()}")
    model = wide_model if by_kernels else tiny_model
    (folder / "model").symlink_to(model)
    (folder / "artefacts").mkdir()
    settings = EAGER | {"compile": MODES[request.param]}
    subprocess.run(
        [
            *(sys.executable, "-m", "servekit.encoders.build"),
            *(str(model), str(folder / "artefacts"), "minilm", json.dumps(settings)),
        ],
        env={**os.environ, "PYTHONPATH": f"{HANDLERS_DIR}{os.pathsep}{QUANTISER}"},
        check=True,
    )
    context = make_context(folder, {"handler": settings, "maxWorkers": 1})
    handler = EmbeddingHandler()
    handler.initialize(context)
    assert handler.embedder.encoder.mode == ("kernels" if by_kernels else MODES[request.param]["mode"])
    return handler, context


def tolerance(handler: EmbeddingHandler) -> float:
    if handler.embedder.encoder.mode == "kernels":
        return 0.0
    return IN_COMPANY.get(handler.settings.compile.precision, 1e-5)


@pytest.mark.parametrize(("status", "code", "request_"), BAD_REQUESTS, ids=[code for _, code, _ in BAD_REQUESTS])
def test_a_bad_request_gets_its_own_answer(
    served: tuple[EmbeddingHandler, Any], status: int, code: str, request_: tuple[bytes | None, dict[str, str]]
) -> None:
    ((found, body),) = ask(*served, [request_])
    assert (found, json.loads(body)["error"]["code"]) == (status, code)


def test_neighbours_get_the_very_bytes_they_get_without_it(served: tuple[EmbeddingHandler, Any]) -> None:
    expected = ask(*served, GOOD_REQUESTS)
    assert [status for status, _ in expected] == [200, 200, 200]
    for status, _, bad in BAD_REQUESTS:
        for place in range(len(GOOD_REQUESTS) + 1):
            replies = ask(*served, [*GOOD_REQUESTS[:place], bad, *GOOD_REQUESTS[place:]])
            assert replies.pop(place)[0] == status
            assert replies == expected


def test_a_batch_of_only_bad_requests_is_answered(served: tuple[EmbeddingHandler, Any]) -> None:
    replies = ask(*served, [bad for _, _, bad in BAD_REQUESTS])
    assert [status for status, _ in replies] == [status for status, _, _ in BAD_REQUESTS]
    assert ask(*served, GOOD_REQUESTS[:1])[0][0] == 200


TEXT = st.lists(st.sampled_from(WORDS), min_size=1, max_size=40).map(" ".join)
ANY_REQUEST: st.SearchStrategy[tuple[bytes | None, dict[str, str]]] = st.one_of(
    TEXT.map(lambda text: (text.encode(), {})),
    st.lists(TEXT, min_size=1, max_size=6).map(lambda texts: (json.dumps({"inputs": texts}).encode(), JSON)),
    st.sampled_from([bad for _, _, bad in BAD_REQUESTS if bad[0] is None or len(bad[0]) < 1000]),
    st.binary(max_size=30).map(lambda raw: (raw, JSON)),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ANY_REQUEST, min_size=1, max_size=8))
def test_any_batch_is_answered_one_by_one(
    served: tuple[EmbeddingHandler, Any], requests: list[tuple[bytes | None, dict[str, str]]]
) -> None:
    """Every request gets one answer, good ones what they get alone (to rounding), and the order is kept."""
    together = ask(*served, requests)
    assert len(together) == len(requests)
    for request, (status, body) in zip(requests, together, strict=True):
        ((alone_status, alone_body),) = ask(*served, [request])
        assert status == alone_status
        assert status == 200 or 400 <= status < 500
        if status == 200:
            np.testing.assert_allclose(flat(body), flat(alone_body), atol=tolerance(served[0]))
        else:
            assert body == alone_body


def flat(body: bytes) -> Any:
    return np.asarray(json.loads(body), dtype=np.float32).reshape(-1)


def test_order_in_the_batch_does_not_matter(served: tuple[EmbeddingHandler, Any]) -> None:
    texts = [" ".join(WORDS[:n]) for n in range(1, 8)]
    expected = {
        text: flat(body) for text, (_, body) in zip(texts, ask(*served, [(t.encode(), {}) for t in texts]), strict=True)
    }
    random.Random(0).shuffle(texts)
    for text, (_, body) in zip(texts, ask(*served, [(t.encode(), {}) for t in texts]), strict=True):
        np.testing.assert_allclose(flat(body), expected[text], atol=tolerance(served[0]))


def test_long_texts_are_truncated_and_counted(served: tuple[EmbeddingHandler, Any]) -> None:
    handler, context = served
    counted = context.metrics.values["servekit_truncated_texts_total"]
    before = sum(counted)
    long, cut = ("fox " * 100).encode(), ("fox " * 30).encode()  # 32 tokens with [CLS] and [SEP]
    (_, long_body), (_, cut_body) = ask(handler, context, [(long, {}), (cut, {})])
    assert long_body == cut_body
    assert sum(counted) == before + 1


def test_usage_counts_the_tokens_read(served: tuple[EmbeddingHandler, Any]) -> None:
    body = json.dumps({"input": ["the fox", "dog " * 100], "model": "minilm"}).encode()
    ((status, reply),) = ask(*served, [(body, OPENAI)])
    assert status == 200
    assert json.loads(reply)["usage"] == {"prompt_tokens": 4 + 32, "total_tokens": 4 + 32}


def test_models_are_listed(served: tuple[EmbeddingHandler, Any]) -> None:
    ((status, reply),) = ask(*served, [(b"", {"url_path": "v1/models"})])
    assert (status, [model["id"] for model in json.loads(reply)["data"]]) == (200, ["minilm"])


def test_work_that_would_outlast_the_timeout_is_turned_away(
    served: tuple[EmbeddingHandler, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, context = served
    monkeypatch.setattr(handler, "token_budget", 40)
    replies = ask(
        handler, context, [(("fox " * 28).encode(), {}), (b"dog", {}), (("fox " * 28).encode(), {}), (b"a", {})]
    )
    assert [status for status, _ in replies] == [200, 200, 429, 429]
    assert json.loads(replies[2][1])["error"]["code"] == "overloaded"
    assert context.get_response_headers(2)["Retry-After"] == "1"


def test_metrics_say_what_happened(served: tuple[EmbeddingHandler, Any]) -> None:
    handler, context = served
    for values in context.metrics.values.values():
        values.clear()
    ask(handler, context, [(b"the fox", {}), (b'{"inputs": ["dog", "the lazy dog"]}', JSON), (b"", {})])
    values = {name: list(found) for name, found in context.metrics.values.items() if found}
    assert values["servekit_texts_total"] == [3]
    assert values["servekit_refused_requests_total"] == [1]
    assert values["servekit_batch_fill_ratio"] == [pytest.approx(3 / 8)]
    assert 0 <= values["servekit_padding_waste_ratio"][0] <= (0.05 if handler.embedder.encoder.mode != "jit" else 1)
    assert values["servekit_recompiles_total"] == [0]
    assert values["servekit_tokenize_seconds"][0] > 0
    assert values["servekit_forward_seconds"][0] > 0


def test_threads_are_divided_among_workers(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    (tmp_path / "model").symlink_to(tiny_model)
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr(pinning, "read_machine", lambda: made_up_machine(8))
    for config in ({"maxWorkers": 3}, {"maxWorkers": 16}, {"handler": {**EAGER, "threads": 5}}):
        EmbeddingHandler().initialize(make_context(tmp_path, {"handler": EAGER, **config}))
    assert asked == [2, 1, 5]


def test_wrong_settings_end_the_start(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(tiny_model)
    with pytest.raises(ValueError, match="max_batch"):
        EmbeddingHandler().initialize(make_context(tmp_path, {"handler": {"max_batch": 3}}))
