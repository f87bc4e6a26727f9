"""The classifier's handler with a fake context and tiny random models."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from classifier_handler import ClassifierHandler
from servekit.classifiers.module import UnsupportedModel
from tests.fakes.context import ask, make_context
from tests.fakes.tiny_classifiers import (
    LABELS,
    SIDE,
    image_file,
    make_image_classifier,
    make_text_classifier,
)
from tests.fakes.tiny_model import WORDS

JSON = {"content-type": "application/json"}
NPY = {"content-type": "application/x-npy"}
EAGER = {"step": "eager", "batch_sizes": [1, 4], "max_items_per_request": 6, "max_image_pixels": 100_000}
Request = tuple[bytes | None, dict[str, str]]
Served = tuple[ClassifierHandler, Any]


def start(folder: Path, config: dict[str, Any], **keys: Any) -> Served:
    context = make_context(folder, {"handler": config, "maxWorkers": 1, **keys}, name=folder.name)
    handler = ClassifierHandler()
    handler.initialize(context)
    return handler, context


def npy(array: Any) -> bytes:
    np.save(buffer := io.BytesIO(), array)
    return buffer.getvalue()


def inputs(*values: Any, **more: Any) -> bytes:
    texts = [base64.b64encode(value).decode() if isinstance(value, bytes) else value for value in values]
    return json.dumps({"inputs": texts[0] if len(texts) == 1 else texts, **more}).encode()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Served:
    folder = tmp_path_factory.mktemp("images")
    make_image_classifier(folder / "model")
    return start(folder, EAGER)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Served:
    folder = tmp_path_factory.mktemp("texts")
    make_text_classifier(folder / "model")
    return start(folder, EAGER)


BAD_IMAGES: list[tuple[int, str, Request]] = [
    (422, "empty_input", (b"", {})),
    (400, "invalid_image", (b"no image", {})),
    (400, "truncated_image", (image_file()[:2000], {"content-type": "image/png"})),
    (413, "image_too_large", (image_file(size=(400, 300)), {})),
    (422, "image_aspect", (image_file(size=(1, 60)), {})),
    (415, "unsupported_media_type", (b"hello", {"content-type": "text/plain"})),
    (400, "form_body", (None, {"content-type": "application/x-www-form-urlencoded"})),
    (400, "invalid_json", (b'{"inputs": ', JSON)),
    (400, "invalid_base64", (b'{"inputs": "%"}', JSON)),
    (422, "invalid_request", (b'{"inputs": 7}', JSON)),
    (413, "too_many_items", (inputs(*["aGVsbG8="] * 7), JSON)),
    (400, "truncated_image", (inputs(image_file(), image_file()[:2000]), JSON)),
    (422, "not_finite", (npy(np.full((3, SIDE, SIDE), np.nan)), NPY)),
    (422, "not_finite", (npy(np.full((3, SIDE, SIDE), 3e38, dtype=np.float32)), NPY)),  # the answer is not
    (422, "invalid_pixels", (npy(np.zeros((3, SIDE, SIDE + 1))), NPY)),
    (413, "body_too_large", (b"x" * (7 << 20), {})),
    (404, "unknown_path", (image_file(), {"url_path": "v1/embeddings"})),
]
GOOD_IMAGES: list[Request] = [
    (image_file(1), {}),
    (inputs(image_file(2), image_file(3, (90, 30), "JPEG")), JSON),
    (npy(np.linspace(-1, 1, 3 * SIDE * SIDE).reshape(3, SIDE, SIDE)), NPY),
]
BAD_TEXTS: list[tuple[int, str, Request]] = [
    (422, "empty_input", (b" ", {})),
    (400, "invalid_utf8", (b"\xff", {})),
    (415, "unsupported_media_type", (image_file(), {"content-type": "image/png"})),
    (422, "invalid_request", (b'{"inputs": {"text": "a"}}', JSON)),
    (413, "too_many_items", (inputs(*["a"] * 7), JSON)),
]
GOOD_TEXTS: list[Request] = [
    (b"the lazy fox", {}),
    (inputs("dog", "over the server text vector model"), JSON),
    (inputs({"text": "the fox", "text_pair": "jumps over"}), JSON),
]


@pytest.mark.parametrize(("status", "code", "request_"), BAD_IMAGES)
def test_a_bad_image_gets_its_own_answer(images: Served, status: int, code: str, request_: Request) -> None:
    ((found, body),) = ask(*images, [request_])
    assert (found, json.loads(body)["error"]["code"]) == (status, code)


@pytest.mark.parametrize(("status", "code", "request_"), BAD_TEXTS)
def test_a_bad_text_gets_its_own_answer(texts: Served, status: int, code: str, request_: Request) -> None:
    ((found, body),) = ask(*texts, [request_])
    assert (found, json.loads(body)["error"]["code"]) == (status, code)


@pytest.mark.parametrize("kind", ["images", "texts"])
def test_neighbours_get_the_very_bytes_they_get_without_it(kind: str, request: pytest.FixtureRequest) -> None:
    served: Served = request.getfixturevalue(kind)
    good, bad_ones = (GOOD_IMAGES, BAD_IMAGES) if kind == "images" else (GOOD_TEXTS, BAD_TEXTS)
    expected = ask(*served, good)
    assert [status for status, _ in expected] == [200] * len(good)
    for status, code, bad in bad_ones:
        if code == "not_finite":  # found behind the model, so these share its forward pass
            continue
        for place in range(len(good) + 1):
            replies = ask(*served, [*good[:place], bad, *good[place:]])
            assert replies.pop(place)[0] == status
            assert replies == expected
    everything = ask(*served, [*(bad for _, _, bad in bad_ones), *good])
    assert [status for status, _ in everything] == [status for status, _, _ in bad_ones] + [200] * len(good)
    assert [scores(body) for _, body in everything[-len(good) :]] == [
        pytest.approx(scores(body), abs=1e-5) for _, body in expected
    ]


def scores(body: bytes) -> list[float]:
    """Every score in the order of LABELS."""
    answers = json.loads(body)
    rows = answers if isinstance(answers[0], list) else [answers]
    return [next(each["score"] for each in row if each["label"] == label) for row in rows for label in LABELS]


ANY_IMAGE: st.SearchStrategy[Request] = st.one_of(
    st.sampled_from([image for _, _, image in BAD_IMAGES if image[0] is None or len(image[0]) < 10_000]),
    st.sampled_from(GOOD_IMAGES),
    st.integers(0, 5).map(lambda seed: (image_file(seed, (10 + seed, 20)), {})),
    st.binary(max_size=40).map(lambda raw: (raw, JSON)),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ANY_IMAGE, min_size=1, max_size=9))
def test_any_batch_is_answered_one_by_one(images: Served, requests: list[Request]) -> None:
    together = ask(*images, requests)
    for request_, (status, body) in zip(requests, together, strict=True):
        ((alone_status, alone_body),) = ask(*images, [request_])
        assert status == alone_status
        assert status == 200 or 400 <= status < 500
        if status == 200:
            assert scores(body) == pytest.approx(scores(alone_body), abs=1e-5)
        else:
            assert body == alone_body


def test_scores_are_those_of_transformers_pipelines(images: Served, texts: Served) -> None:
    from transformers import pipeline

    folder = images[0].spec.model_dir
    file = image_file(5, (70, 50))
    expected = pipeline("image-classification", model=str(folder))(Image.open(io.BytesIO(file)), top_k=3)
    ((_, body),) = ask(*images, [(file, {})])
    assert json.loads(body) == [{"label": e["label"], "score": pytest.approx(e["score"], abs=1e-5)} for e in expected]

    classify = pipeline("text-classification", model=str(texts[0].spec.model_dir))
    asked: list[Any] = ["the lazy fox", " " + " ".join(WORDS * 3), {"text": "the fox", "text_pair": "jumps over"}]
    by_pipeline = [classify(each, top_k=3) for each in asked]
    ((_, body),) = ask(*texts, [(inputs(*asked), JSON)])
    assert json.loads(body) == [
        [{"label": e["label"], "score": pytest.approx(e["score"], abs=1e-5)} for e in row] for row in by_pipeline
    ]


@pytest.mark.parametrize(
    ("problem_type", "classes", "function", "labels"),
    [
        (None, 3, "softmax", 3),
        ("multi_label_classification", 3, "sigmoid", 3),
        ("regression", 3, "none", 3),
        (None, 1, "sigmoid", 1),
    ],
)
def test_heads(tmp_path: Path, problem_type: str | None, classes: int, function: str, labels: int) -> None:
    make_text_classifier(tmp_path / "model", problem_type=problem_type, labels=LABELS[:classes])
    handler, context = start(tmp_path, EAGER)
    assert handler.spec.function == function
    ((_, body),) = ask(handler, context, [(b"the fox", {})])
    found = [each["score"] for each in json.loads(body)]
    assert len(found) == labels
    assert found == sorted(found, reverse=True)
    if function == "softmax":
        assert sum(found) == pytest.approx(1)
    ((_, raw),) = ask(handler, context, [(inputs("the fox", parameters={"function_to_apply": "none"}), JSON)])
    logits = torch.tensor([each["score"] for each in json.loads(raw)])
    functions = {"softmax": logits.softmax(0), "sigmoid": logits.sigmoid(), "none": logits}
    assert found == pytest.approx(functions[function].tolist(), abs=1e-5)


def test_top_k(images: Served) -> None:
    ((_, body),) = ask(*images, [(inputs(image_file(), parameters={"top_k": 1}), JSON)])
    assert len(json.loads(body)) == 1
    ((_, body),) = ask(*images, [(inputs(image_file(), parameters={"top_k": 99}), JSON)])
    assert len(json.loads(body)) == len(LABELS)


def test_torchserve_s_own_label_file_wins(tmp_path: Path) -> None:
    make_image_classifier(tmp_path / "model")
    table = {"0": ["n01", "tench"], "1": ["n02", "shark"], "2": ["n03", "ray"]}
    (tmp_path / "model" / "index_to_name.json").write_text(json.dumps(table))
    ((_, body),) = ask(*start(tmp_path, EAGER), [(image_file(), {})])
    assert {each["label"] for each in json.loads(body)} == {"tench", "shark", "ray"}


def test_transformers_two_nameless_classes(tmp_path: Path) -> None:
    make_text_classifier(tmp_path / "model", labels=["LABEL_0", "LABEL_1"])
    assert "id2label" not in json.loads((tmp_path / "model" / "config.json").read_text())
    ((_, body),) = ask(*start(tmp_path, EAGER), [(b"the fox", {})])
    assert {each["label"] for each in json.loads(body)} == {"LABEL_0", "LABEL_1"}


def test_labels_that_do_not_fit_end_the_start(tmp_path: Path) -> None:
    make_image_classifier(tmp_path / "model")
    (tmp_path / "model" / "index_to_name.json").write_text('{"0": "a", "1": "b"}')
    with pytest.raises(ValueError, match="the model has 3 classes, its labels are 2"):
        start(tmp_path, EAGER)
    (tmp_path / "model" / "index_to_name.json").write_text('{"0": "a", "2": "b"}')
    with pytest.raises(UnsupportedModel, match="labels are not 0 to n - 1"):
        start(tmp_path, EAGER)


def test_images_that_keep_their_shapes_are_refused_at_the_start(tmp_path: Path) -> None:
    make_image_classifier(tmp_path / "model", fixed_size=False)
    with pytest.raises(UnsupportedModel, match="images of different shapes stay different"):
        start(tmp_path, EAGER)


def test_work_that_would_outlast_the_timeout_is_turned_away(images: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    handler, context = images
    monkeypatch.setattr(handler, "budget", 3)
    two = (inputs(image_file(), image_file()), JSON)
    replies = ask(handler, context, [two, (image_file(), {}), two, (image_file(), {})])
    assert [status for status, _ in replies] == [200, 200, 429, 429]
    assert context.get_response_headers(3)["Retry-After"] == "1"


def test_metrics_say_what_happened(texts: Served) -> None:
    handler, context = texts
    for values in context.metrics.values.values():
        values.clear()
    ask(handler, context, [GOOD_TEXTS[1], (b"", {}), (b"fox " * 100, {})])
    values = {name: list(found) for name, found in context.metrics.values.items() if found}
    assert values["servekit_items_total"] == [3]
    assert values["servekit_refused_requests_total"] == [1]
    assert values["servekit_truncated_texts_total"] == [1]
    assert values["servekit_batch_fill_ratio"] == [pytest.approx(3 / 8)]
    assert values["servekit_forward_seconds"][0] > 0
    assert values["servekit_read_seconds"][0] > 0
