from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from servekit.classifier_requests import (
    IMAGE_TYPES,
    NPY,
    ClassifierRequest,
    parse_image_request,
    parse_text_request,
    render_reply,
    scores_of,
)
from servekit.errors import RequestError
from servekit.settings import ClassifierSettings
from servekit.wire import read_body

JSON = {"content-type": "application/json"}
SHAPE = (3, 2, 2)
SETTINGS = ClassifierSettings(max_items_per_request=4, top_k=3)
PNG = b"\x89PNG\r\n\x1a\n"


def npy(array: Any, **options: Any) -> bytes:
    np.save(buffer := io.BytesIO(), array, **options)
    return buffer.getvalue()


def image_request(raw: Any, headers: dict[str, str]) -> ClassifierRequest:
    form = headers.get("content-type", "").startswith("multipart/")
    row = raw if form else {"body": raw if isinstance(raw, bytes) else json.dumps(raw).encode()}
    return parse_image_request(read_body(row, headers, 10_000, IMAGE_TYPES), SETTINGS, SHAPE)


def text_request(raw: Any, headers: dict[str, str]) -> ClassifierRequest:
    body = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
    return parse_text_request(read_body({"body": body}, headers, 10_000), SETTINGS)


@pytest.mark.parametrize(
    ("raw", "headers"),
    [
        (PNG, {}),
        (PNG, {"Content-Type": "image/png"}),
        (PNG, {"content-type": "image/jpeg; charset=binary"}),
        (PNG, {"content-type": "application/octet-stream"}),
        ({"data": bytearray(PNG)}, {"content-type": "multipart/form-data; boundary=x"}),
        ({"inputs": base64.b64encode(PNG).decode()}, JSON),
        ({"inputs": "data:image/png;base64," + base64.b64encode(PNG).decode()}, JSON),
    ],
)
def test_one_image_in_every_dialect(raw: Any, headers: dict[str, str]) -> None:
    assert image_request(raw, headers) == ClassifierRequest([PNG], one=True, top_k=3)


def test_many_images_and_parameters() -> None:
    encoded = base64.b64encode(PNG).decode()
    body = {"inputs": [encoded, encoded], "parameters": {"top_k": 1, "function_to_apply": "none"}}
    assert image_request(body, JSON) == ClassifierRequest([PNG, PNG], one=False, top_k=1, function="none")


@pytest.mark.parametrize("many", [False, True])
def test_pixels_that_the_client_prepared(many: bool) -> None:
    pixels = np.arange(24 if many else 12, dtype=np.float64).reshape(*([2] if many else []), *SHAPE)
    by_npy = image_request(npy(pixels), {"content-type": NPY})
    by_json = image_request({"pixel_values": pixels.tolist()}, JSON)
    for request in (by_npy, by_json):
        assert request.one is not many
        assert np.array_equal(np.stack(request.items), pixels.reshape(-1, *SHAPE))
        assert all(item.dtype == np.float32 for item in request.items)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("raw", "headers", "status", "code"),
    [
        ({"inputs": "§"}, JSON, 400, "invalid_base64"),
        ({"inputs": "abc"}, JSON, 400, "invalid_base64"),
        ({"inputs": ""}, JSON, 422, "empty_input"),
        ({"inputs": []}, JSON, 422, "invalid_request"),
        ({"inputs": [7]}, JSON, 422, "invalid_request"),
        ({"input": "aGVsbG8="}, JSON, 422, "invalid_request"),
        ({"inputs": "aGVsbG8=", "parameters": {"top_k": 0}}, JSON, 422, "invalid_request"),
        ({"inputs": "aGVsbG8=", "parameters": {"topk": 1}}, JSON, 422, "invalid_request"),
        ({"inputs": ["aGVsbG8="] * 5}, JSON, 413, "too_many_items"),
        ({"pixel_values": [[1.0]]}, JSON, 422, "invalid_pixels"),
        ({"pixel_values": []}, JSON, 422, "invalid_pixels"),
        ({"pixel_values": [[1.0], [1.0, 2.0]]}, JSON, 422, "invalid_pixels"),
        ({"pixel_values": np.full(SHAPE, None).tolist()}, JSON, 422, "not_finite"),
        (b'{"pixel_values": NaN}', JSON, 400, "invalid_json"),
        (npy(np.full(SHAPE, np.nan)), {"content-type": NPY}, 422, "not_finite"),
        (npy(np.full(SHAPE, 1e300)), {"content-type": NPY}, 422, "not_finite"),
        (npy(np.zeros((4, 2, 2))), {"content-type": NPY}, 422, "invalid_pixels"),
        (npy(np.zeros((0, *SHAPE))), {"content-type": NPY}, 422, "invalid_pixels"),
        (npy(np.zeros(SHAPE, dtype=complex)), {"content-type": NPY}, 422, "invalid_pixels"),
        (npy(np.array([{}] * 12).reshape(SHAPE), allow_pickle=True), {"content-type": NPY}, 400, "invalid_npy"),
        (npy(np.zeros(SHAPE))[:-1], {"content-type": NPY}, 400, "invalid_npy"),
        (b"\x93NUMPY\x01\x00\x02\x00{}", {"content-type": NPY}, 400, "invalid_npy"),
        (b"hello", {"content-type": NPY}, 400, "invalid_npy"),
        (b"hello", {"content-type": "text/plain"}, 415, "unsupported_media_type"),
        (b"a=b", {"content-type": "application/x-www-form-urlencoded"}, 400, "form_body"),
        ({"a": b"", "b": b""}, {"content-type": "multipart/form-data; boundary=x"}, 400, "form_body"),
        (b"x" * 10_001, {}, 413, "body_too_large"),
    ],
)
def test_a_bad_image_request_is_a_clear_error(raw: Any, headers: dict[str, str], status: int, code: str) -> None:
    with pytest.raises(RequestError) as caught:
        image_request(raw, headers)
    assert (caught.value.status, caught.value.code) == (status, code)


def test_a_header_that_lies_about_its_size_takes_no_memory() -> None:
    raw = npy(np.zeros(SHAPE)).replace(b"(3, 2, 2), }", b"(3, 9, 9999999), }")
    with pytest.raises(RequestError) as caught:
        image_request(raw, {"content-type": NPY})
    assert caught.value.code == "invalid_npy"


@pytest.mark.parametrize(
    ("raw", "headers", "items", "one"),
    [
        (b"good", {}, ["good"], True),
        ({"inputs": "good"}, JSON, ["good"], True),
        (b'"good"', JSON, ["good"], True),
        ({"inputs": ["a", "b"]}, JSON, ["a", "b"], False),
        ({"inputs": {"text": "a", "text_pair": "b"}}, JSON, [("a", "b")], True),
        ({"inputs": [{"text": "a", "text_pair": "b"}, "c"]}, JSON, [("a", "b"), "c"], False),
    ],
)
def test_texts_in_every_dialect(raw: Any, headers: dict[str, str], items: list[Any], one: bool) -> None:
    assert text_request(raw, headers) == ClassifierRequest(items, one, 3)


@pytest.mark.parametrize(
    ("raw", "headers", "status", "code"),
    [
        (b" \n", {}, 422, "empty_input"),
        ({"inputs": ["a", ""]}, JSON, 422, "empty_input"),
        ({"inputs": [["a"]]}, JSON, 422, "invalid_request"),
        ({"inputs": {"text": "a"}}, JSON, 422, "invalid_request"),
        ({"inputs": ["a"] * 5}, JSON, 413, "too_many_items"),
        (b"\xff", {}, 400, "invalid_utf8"),
        (PNG, {"content-type": "image/png"}, 415, "unsupported_media_type"),
    ],
)
def test_a_bad_text_request_is_a_clear_error(raw: Any, headers: dict[str, str], status: int, code: str) -> None:
    with pytest.raises(RequestError) as caught:
        text_request(raw, headers)
    assert (caught.value.status, caught.value.code) == (status, code)


FINITE = st_numpy.arrays(
    np.float32, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=st.floats(-1e4, 1e4, width=32)
)


@given(FINITE)
def test_scores(logits: Any) -> None:
    softmax = scores_of(logits, "softmax")
    assert np.allclose(softmax.sum(axis=1), 1, atol=1e-5)
    sigmoid = scores_of(logits, "sigmoid")
    for scores in (softmax, sigmoid):
        assert ((scores >= 0) & (scores <= 1)).all()
    with np.errstate(over="ignore"):
        assert np.allclose(sigmoid, 1 / (1 + np.exp(-logits.astype(np.float64))), atol=1e-6)
    assert scores_of(logits, "none") is logits


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_the_request_s_error(value: float) -> None:
    with pytest.raises(RequestError) as caught:
        scores_of(np.array([[0.0, value]], dtype=np.float32), "softmax")
    assert caught.value.code == "not_finite"


def test_a_reply_holds_the_best_labels_first() -> None:
    scores = np.array([[0.25, 0.5, 0.25], [1.0, 0.0, 0.0]], dtype=np.float32)
    labels = ["a", "b", "c"]
    assert json.loads(render_reply(ClassifierRequest([b"", b""], False, 2), scores, labels)) == [
        [{"label": "b", "score": 0.5}, {"label": "a", "score": 0.25}],
        [{"label": "a", "score": 1.0}, {"label": "b", "score": 0.0}],
    ]
    one = render_reply(ClassifierRequest([b""], True, 1), scores[:1], labels)
    assert json.loads(one) == [{"label": "b", "score": 0.5}]
