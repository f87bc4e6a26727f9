"""A classifier's archive in TorchServe's own worker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from archives import build
from archives.build import Archive
from archives.verify import verify
from archives.worker import Request, Worker
from model_configs.archive_files import read_golden
from model_configs.errors import Failed, KitError
from model_configs.schema import AnyModelConfig, Assets, load_model
from servekit.settings import ClassifierSettings
from tests.fakes.tiny_classifiers import image_file, make_image_classifier, make_text_classifier
from tests.handlers.test_classifier_handler import BAD_IMAGES, GOOD_IMAGES, GOOD_TEXTS

SIZES = {"batch_sizes": [1, 2], "max_items_per_request": 6, "max_image_pixels": 100_000}


def tiny_config(weights: Path, settings: dict[str, Any], calibration: Path | None = None) -> AnyModelConfig:
    base = load_model("digits")
    source = Assets(path=str(weights), calibration=str(calibration) if calibration else None)
    model = base.model.model_copy(update={"name": "tiny", "assets": source, "format": "no-archive"})
    handler = ClassifierSettings.model_validate({**SIZES, **settings})
    return base.model_copy(update={"model": model, "handler": handler})


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    folder = tmp_path_factory.mktemp("classifier")
    return build.build(tiny_config(make_image_classifier(folder / "model"), {"step": "compile"}), folder / "store")


@pytest.fixture(scope="module")
def worker(archive: Archive) -> Iterator[Worker]:
    with Worker(archive.path) as started:
        started.load("tiny")
        yield started


def test_it_verifies(archive: Archive) -> None:
    result = verify(archive.path)
    assert "tiny: step compile" in result.worker_log[-1]
    golden = read_golden(archive.path)
    assert (golden.kind, len(golden.expected)) == ("scores", 3)


def test_another_store_gets_the_same_archive(archive: Archive, tmp_path: Path) -> None:
    """Compiled anew, packages included."""
    weights = archive.path / "model"
    assert build.build(tiny_config(weights, {"step": "compile"}), tmp_path).sha256 == archive.sha256


def test_wrong_scores_are_found(archive: Archive) -> None:
    golden = read_golden(archive.path)
    changed = [{label: score + 0.01 for label, score in each.items()} for each in golden.expected]
    with Worker(archive.path) as worker:
        worker.load("tiny")
        (reply,) = worker.predict([Request(json.dumps(golden.body).encode(), {"content-type": "application/json"})])
    assert golden.verdict(reply.body) == ""
    assert "the reference" in type(golden)(golden.body, "scores", changed, golden.tolerance).verdict(reply.body)


def test_bad_images_leave_neighbours_and_worker_alone(worker: Worker) -> None:
    good = [Request(body or b"", headers) for body, headers in GOOD_IMAGES]
    expected = worker.predict(good)
    assert [reply.status for reply in expected] == [200] * len(good)
    for status, code, (body, headers) in BAD_IMAGES:
        bad = Request(body or b"", headers, form=body is None)
        replies = worker.predict([good[0], bad, *good[1:]])
        reply = replies.pop(1)
        assert (reply.status, json.loads(reply.body)["error"]["code"]) == (status, code)
        if code != "not_finite":  # found behind the model: it shares their forward pass
            assert replies == expected
    assert worker.alive


def test_a_worker_pins_itself_and_says_so(worker: Worker) -> None:
    assert any("tiny: step compile" in line and "CPU" in line for line in worker.output)


def test_texts(tmp_path: Path) -> None:
    archive = build.build(tiny_config(make_text_classifier(tmp_path / "model"), {"step": "eager"}), tmp_path / "store")
    with Worker(archive.path) as worker:
        worker.load("tiny")
        replies = worker.predict([Request(body or b"", headers) for body, headers in GOOD_TEXTS])
    assert [reply.status for reply in replies] == [200] * len(GOOD_TEXTS)
    assert verify(archive.path).name == "tiny"


def test_int8_without_calibration_images_builds_no_archive(tmp_path: Path) -> None:
    config = tiny_config(make_image_classifier(tmp_path / "model"), {"step": "int8"})
    with pytest.raises(Failed, match=r"step int8 of an image model needs model\.assets\.calibration"):
        build.build(config, tmp_path / "store")
    config = tiny_config(tmp_path / "model", {"step": "int8"}, tmp_path / "nothing")
    with pytest.raises(KitError, match=r"model\.assets\.calibration: .* is not a folder"):
        build.build(config, tmp_path / "store")


def test_a_damaged_calibration_image_is_named(tmp_path: Path) -> None:
    calibration = tmp_path / "calibration"
    calibration.mkdir()
    (calibration / "a.png").write_bytes(image_file())
    (calibration / "b.png").write_bytes(image_file()[:2000])
    config = tiny_config(make_image_classifier(tmp_path / "model"), {"step": "int8"}, calibration)
    with pytest.raises(Failed, match=r"b\.png: the image is damaged or cut off"):
        build.build(config, tmp_path / "store")
