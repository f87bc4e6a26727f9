"""How two answers differ, by what they are."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.answers import Answer, Difference, compare


def answer(value: Any, content_type: str = "application/json", status: int | None = 200) -> Answer:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Answer(status, content_type, body, 0.1)


def difference(ours: Any, theirs: Any, content_type: str = "application/json") -> Difference:
    return compare(answer(ours, content_type), answer(theirs, content_type))


def embeddings(*vectors: Any) -> dict[str, Any]:
    return {"object": "list", "data": [{"embedding": vector} for vector in vectors], "usage": {"total_tokens": 3}}


def packed(*numbers: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def stream(*events: Any) -> bytes:
    return b"".join(
        b"data: " + (each if isinstance(each, bytes) else json.dumps(each).encode()) + b"\n\n" for each in events
    )


def test_no_answer_and_other_statuses() -> None:
    assert compare(answer([1.0]), Answer(None, error="refused")).what == "no answer: refused"
    found = compare(answer([1.0]), answer([1.0], status=500))
    assert (found.equal, found.what) == (False, "status 200 and 500")
    assert compare(answer({"error": 1}, status=400), answer({"error": 2}, status=400)).equal
    assert difference([1.0], {"x": 1}).what == "vectors and json"


@pytest.mark.parametrize(
    ("ours", "theirs", "cosine", "largest"),
    [
        ([0.6, 0.8], [0.6, 0.8], 1.0, 0.0),
        ([0.6, 0.8], [0.8, 0.6], 0.96, 0.2),
        ([[0.6, 0.8], [1, 0]], [[0.6, 0.8], [0.8, 0.6]], 0.8, 0.6),
        ([1, 2], [2, 4], 1.0, 2.0),
        ([1.0, 0.0], [0.0, 0.0], 0.0, 1.0),
        (embeddings([0.6, 0.8]), embeddings([0.8, 0.6]), 0.96, 0.2),
        (embeddings([0.5, 0.25]), embeddings(packed(0.5, 0.25)), 1.0, 0.0),
    ],
)
def test_vectors(ours: Any, theirs: Any, cosine: float, largest: float) -> None:
    found = difference(ours, theirs)
    assert found.kind == "vectors"
    assert found.cosine == pytest.approx(cosine)
    assert found.largest == pytest.approx(largest)
    assert found.within(cosine - 1e-6)
    assert not found.within(cosine + 1e-3)


@pytest.mark.parametrize("theirs", [[0.6], [[0.6, 0.8], [1.0, 0.0]]])
def test_other_numbers_of_vectors_or_elements(theirs: Any) -> None:
    found = difference([0.6, 0.8], theirs)
    assert (found.kind, found.cosine, found.within(0.0)) == ("vectors", 0.0, True)
    assert not found.within(0.9)


def labels(*pairs: tuple[str, float]) -> list[dict[str, Any]]:
    return [{"label": label, "score": score} for label, score in pairs]


def test_labels() -> None:
    one = labels(("cat", 0.6), ("dog", 0.4))
    near, other = labels(("cat", 0.59), ("dog", 0.41)), labels(("dog", 0.6), ("cat", 0.4))
    assert difference(one, near) == Difference("labels", False, label_agrees=True)
    assert difference([one, one], [one, other]).label_agrees is False
    assert difference(one, one) == Difference("labels", True, label_agrees=True)
    assert (difference(one, near).within(1), difference(one, other).within(0)) == (True, False)
    assert not difference([one], [one, one]).within(0)


@pytest.mark.parametrize(
    ("ours", "theirs", "content_type", "first"),
    [
        (b"plain text", b"plain words", "text/plain", 6),
        (b"longer", b"long", "text/plain", 4),
        ([{"generated_text": "a b"}], [{"generated_text": "a c"}], "application/json", 2),
        ({"choices": [{"text": "xy"}]}, {"choices": [{"text": "xz"}]}, "application/json", 1),
        ({"choices": [{"message": {"content": "h\u00e4"}}]}, {"choices": [{"message": {"content": "hi"}}]}, "application/json", 1),
    ],
)  # fmt: skip
def test_text(ours: Any, theirs: Any, content_type: str, first: int) -> None:
    assert difference(ours, theirs, content_type) == Difference("text", False, first_difference=first)


def test_ids_and_times_are_no_part_of_a_text() -> None:
    one = {"id": "cmpl-1", "created": 1, "choices": [{"text": "same"}]}
    assert difference(one, {**one, "id": "cmpl-2", "created": 2}) == Difference("text", True)


def test_streams_are_compared_by_what_they_say() -> None:
    openai = stream({"choices": [{"text": "on"}]}, {"choices": [{"text": "e two"}]}, b"[DONE]")
    cut = stream(
        {"choices": [{"text": "one"}]}, {"choices": [{"text": " two"}]}, {"choices": [], "usage": {}}, b"[DONE]"
    )
    chat = stream({"choices": [{"delta": {"role": "assistant"}}]}, {"choices": [{"delta": {"content": "one two"}}]})
    tgi = (
        b"data:"
        + json.dumps({"token": {"text": "one two"}}).encode()
        + b"\n\ndata:"
        + json.dumps({"token": {"text": "</s>", "special": True}, "generated_text": "one two"}).encode()
    )
    for other in (cut, chat, tgi):
        assert difference(openai, other, "text/event-stream") == Difference("text", True)
    wrong = stream({"choices": [{"text": "one three"}]})
    assert difference(openai, wrong, "text/event-stream").first_difference == 5
    assert difference(openai, b"data: {broken", "text/event-stream").what == "text and bytes"


def test_anything_else() -> None:
    assert difference({"a": 1, "b": 2}, {"b": 2, "a": 1}) == Difference("json", True)
    assert difference({"a": 1}, {"a": 2}) == Difference("json", False)
    assert difference(b"\xff\xfe", b"\xff\xfd", "image/png") == Difference("bytes", False)
    assert difference(b"\xff", b"\xff", "image/png") == Difference("bytes", True)


@given(st.binary(max_size=60), st.binary(max_size=60), st.sampled_from(["", "application/json", "text/event-stream"]))
def test_whatever_comes_it_is_told(ours: bytes, theirs: bytes, content_type: str) -> None:
    found = difference(ours, theirs, content_type)
    assert found.equal or ours != theirs
    assert difference(ours, ours, content_type).equal


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["label", "score", "data", "embedding", "choices", "text", "token", "message"]), inner),
    max_leaves=8,
)  # fmt: skip


@given(json_values, json_values)
def test_no_json_is_too_odd(ours: Any, theirs: Any) -> None:
    difference(ours, theirs)
    difference(stream(ours), stream(theirs), "text/event-stream")
