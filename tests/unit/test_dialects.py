"""A payload as each kind of target is asked for it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loadtest.dialects import Call, call
from loadtest.plan import Target
from loadtest.workload import Payload
from model_configs.loadtest import LoadTest, TargetKind

LOAD = LoadTest(payloads="any", max_tokens=9)
TEXT = Payload("a.txt", b"What is a generator?", "text/plain", 1)
PIXELS = Payload("7.png", b"\x89PNG", "image/png", 1)


def asked(kind: TargetKind, payload: Payload, *, version: str | None = "1.0", stream: bool = False) -> Call:
    target = Target(kind=kind, url="http://h", model="m", version=version, stream=stream)
    return call(target, LOAD, payload)


def body(asked: Call) -> Any:
    assert asked.content_type == "application/json"
    return json.loads(asked.body)


def test_bytes_go_as_they_are_to_predictions_and_invocations() -> None:
    for kind, path in (("predictions", "/predictions/m/1.0"), ("invocations", "/invocations")):
        found = asked(kind, PIXELS)  # type: ignore[arg-type]
        assert (found.path, found.content_type, found.body) == (path, "image/png", b"\x89PNG")
    assert asked("predictions", PIXELS, version=None).path == "/predictions/m"


def test_text_that_is_to_stream_is_asked_in_tgi_s_form() -> None:
    found = asked("sagemaker-stream", TEXT, stream=True)
    expected = {"inputs": "What is a generator?", "parameters": {"max_new_tokens": 9}, "stream": True}
    assert (found.path, body(found)) == ("", expected)


def test_openai_s_paths_are_torchserve_s_with_a_version_and_anybody_s_without() -> None:
    assert asked("openai-completions", TEXT).path == "/predictions/m/1.0/v1/completions"
    assert asked("openai-chat", TEXT, version=None).path == "/v1/chat/completions"
    assert asked("openai-embeddings", TEXT, version=None).path == "/v1/embeddings"


def test_openai_s_bodies() -> None:
    completion = body(asked("openai-completions", TEXT, stream=True))
    assert completion == {
        "model": "m",
        "max_tokens": 9,
        "temperature": 0,
        "prompt": "What is a generator?",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert body(asked("openai-chat", TEXT))["messages"] == [{"role": "user", "content": "What is a generator?"}]
    assert body(asked("openai-embeddings", TEXT)) == {"model": "m", "input": "What is a generator?"}
    texts = Payload("b.json", b'{"inputs": ["a", "b"]}', "application/json", 2)
    assert body(asked("openai-embeddings", texts)) == {"model": "m", "input": ["a", "b"]}


def test_what_a_json_payload_says_itself_is_kept() -> None:
    own = Payload("c.json", b'{"prompt": "x", "max_tokens": 3, "model": "other"}', "application/json", 1)
    assert body(asked("openai-completions", own)) == {
        "prompt": "x",
        "max_tokens": 3,
        "model": "other",
        "temperature": 0,
    }


@pytest.mark.parametrize(
    "payload",
    [PIXELS, Payload("d.json", b"[1]", "application/json", 1), Payload("e.json", b"{}", "application/json", 1)],
)
def test_what_has_no_form_in_a_dialect_is_named(payload: Payload) -> None:
    with pytest.raises(ValueError, match=payload.name):
        asked("openai-embeddings", payload)
