"""wire.py and embedding_requests.py: what comes in, what goes out."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.embedding_requests import EmbeddingRequest, parse_request, render_reply
from servekit.errors import RequestError
from servekit.vectors import shorten
from servekit.wire import Body, read_body, url_path

JSON = {"content-type": "application/json"}
OPENAI = "v1/embeddings"
LIMIT = 1 << 20


def parse(body: bytes, headers: dict[str, Any] | None = None, path: str = "") -> EmbeddingRequest:
    return parse_request(read_body({"body": bytearray(body)}, headers or {}, LIMIT), path, "minilm", 384)


@pytest.mark.parametrize(
    ("body", "headers", "path", "texts"),
    [
        (b"hello", {}, "", ["hello"]),
        (b"hello", {"Content-Type": "text/plain; charset=utf-8"}, "", ["hello"]),
        (b"hello", {"content-type": "application/octet-stream"}, "", ["hello"]),
        (b'{"inputs": "a"}', JSON, "", ["a"]),
        (b'{"inputs": ["a", "b"]}', {"CONTENT-TYPE": "application/json; charset=utf-8"}, "", ["a", "b"]),
        (b'"a"', JSON, "", ["a"]),
        (b'{"input": "a", "model": "minilm"}', JSON, OPENAI, ["a"]),
        (b'{"input": ["a", "b"], "model": "minilm", "user": "x", "dimensions": 3}', JSON, OPENAI, ["a", "b"]),
    ],
)
def test_dialects(body: bytes, headers: dict[str, str], path: str, texts: list[str]) -> None:
    assert parse(body, headers, path).texts == texts


@pytest.mark.parametrize(
    ("body", "headers", "path", "status", "code"),
    [
        (b"", {}, "", 422, "empty_input"),
        (b" \n\t ", {}, "", 422, "empty_input"),
        (b'{"inputs": ["a", " "]}', JSON, "", 422, "empty_input"),
        (b'{"inputs": []}', JSON, "", 422, "empty_input"),
        (b"\xff\xfe", {}, "", 400, "invalid_utf8"),
        (b'{"inputs": "\xff"}', JSON, "", 400, "invalid_utf8"),
        (b'{"inputs": ', JSON, "", 400, "invalid_json"),
        (b"", JSON, "", 400, "invalid_json"),
        (b'{"inputs": "\\ud800"}', JSON, "", 400, "invalid_json"),
        (b"[" * 100_000, JSON, "", 400, "invalid_json"),
        (b'{"inputs": NaN}', JSON, "", 400, "invalid_json"),
        (b'{"inputs": 3}', JSON, "", 422, "invalid_request"),
        (b'{"inputs": {"a": 1}}', JSON, "", 422, "invalid_request"),
        (b'{"inputs": ["a", null]}', JSON, "", 422, "invalid_request"),
        (b'{"text": "a"}', JSON, "", 422, "invalid_request"),
        (b"{}", JSON, "", 422, "invalid_request"),
        (b"[1, 2]", JSON, "", 422, "invalid_request"),
        (b"null", JSON, "", 422, "invalid_request"),
        (b'{"inputs": "a", "truncate": "no"}', JSON, "", 422, "invalid_request"),
        (b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}, "", 400, "form_body"),
        (b"--x", {"Content-Type": "multipart/form-data; boundary=x"}, "", 400, "form_body"),
        (b"\x89PNG", {"Content-Type": "image/png"}, "", 415, "unsupported_media_type"),
        (b"x" * (LIMIT + 1), {}, "", 413, "body_too_large"),
        (b"hello", {}, "v2/embeddings", 404, "unknown_path"),
        (b"hello", {}, OPENAI, 400, "invalid_json"),
        (b'{"input": "a"}', JSON, OPENAI, 422, "invalid_request"),
        (b'{"input": "a", "model": "gpt-4"}', JSON, OPENAI, 404, "model_not_found"),
        (b'{"input": "a", "model": "minilm", "encoding_format": "hex"}', JSON, OPENAI, 422, "invalid_request"),
        (b'{"input": "a", "model": "minilm", "dimensions": 0}', JSON, OPENAI, 422, "invalid_request"),
        (b'{"input": "a", "model": "minilm", "dimensions": 385}', JSON, OPENAI, 400, "invalid_dimensions"),
        (b'{"input": [1, 2, 3], "model": "minilm"}', JSON, OPENAI, 422, "token_ids"),
        (b'{"input": [[1, 2], [3]], "model": "minilm"}', JSON, OPENAI, 422, "token_ids"),
    ],
)
def test_each_mistake_has_its_own_answer(
    body: bytes, headers: dict[str, str], path: str, status: int, code: str
) -> None:
    with pytest.raises(RequestError) as caught:
        parse(body, headers, path)
    assert caught.value.status == status
    error = json.loads(caught.value.body)["error"]
    assert error["code"] == code
    assert set(error) == {"message", "type", "code"}
    assert error["message"]


def test_an_unknown_key_names_the_closest() -> None:
    with pytest.raises(RequestError, match="inputz: unknown key; did you mean 'inputs'"):
        parse(b'{"inputz": "a"}', JSON)


def test_a_form_that_the_frontend_could_not_parse_has_no_body() -> None:
    with pytest.raises(RequestError, match="curl -d and -F"):
        read_body({}, {"Content-Type": "application/x-www-form-urlencoded"}, LIMIT)


def test_bodies_that_the_worker_decoded_are_taken_as_they_are() -> None:
    assert read_body({"body": {"inputs": "a"}}, JSON, LIMIT) == Body({"inputs": "a"}, True)
    assert read_body({"body": "hällo"}, {}, LIMIT) == Body("hällo", False)


def test_url_path_is_found_and_trimmed() -> None:
    assert url_path({"url_path": "v1/embeddings/"}) == OPENAI
    assert url_path({"body": {"content-type": "x"}}) == ""


@given(st.binary(max_size=200), st.sampled_from(["", "text/plain", "application/json", "x", "multipart/form-data"]))
def test_no_body_at_all_escapes_as_another_error(body: bytes, content_type: str) -> None:
    try:
        parse(body, {"content-type": content_type})
    except RequestError as error:
        assert 400 <= error.status < 500


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_no_json_at_all_escapes_as_another_error(content: Any) -> None:
    for path in ("", OPENAI):
        try:
            parse_request(Body(content, True), path, "minilm", 384)
        except RequestError as error:
            assert 400 <= error.status < 500


VECTORS = np.linspace(-1, 1, 12, dtype=np.float32).reshape(2, 6)


def test_one_text_gives_one_vector_and_a_list_gives_a_list() -> None:
    one = json.loads(render_reply(EmbeddingRequest(["a"], one=True), VECTORS[:1], 3))
    many = json.loads(render_reply(EmbeddingRequest(["a", "b"]), VECTORS, 6))
    assert np.allclose(one, VECTORS[0])
    assert np.allclose(many, VECTORS)


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_openai_reply(encoding: str) -> None:
    body = json.dumps({"input": ["a", "b"], "model": "minilm", "encoding_format": encoding}).encode()
    reply = json.loads(render_reply(parse(body, JSON, OPENAI), VECTORS, 7))
    assert reply["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert (reply["object"], reply["model"]) == ("list", "minilm")
    found = [item["embedding"] for item in reply["data"]]
    if encoding == "base64":
        found = [np.frombuffer(base64.b64decode(vector), "<f4") for vector in found]
    assert np.array_equal(np.asarray(found, dtype=np.float32), VECTORS)
    assert [item["index"] for item in reply["data"]] == [0, 1]


def test_shortened_vectors_have_length_one() -> None:
    assert np.allclose(np.linalg.norm(shorten(VECTORS, 3), axis=1), 1.0)


def test_a_request_error_is_a_clients_mistake() -> None:
    with pytest.raises(ValueError, match="status=500"):
        RequestError(500, "x", "x")
