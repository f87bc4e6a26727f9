"""Intel's extension: marked `ipex`, run by `make test-ipex` under torch 2.8; the refusals run everywhere."""

from __future__ import annotations

import importlib.metadata
import json
import logging
from pathlib import Path

import pytest
import torch

from classifier_handler import ClassifierHandler
from servekit.classifiers import ipex, load_classifier
from servekit.classifiers.module import ClassifierSpec, load_module
from servekit.classifiers.readers import load_reader
from servekit.machine_cache import VARIABLE
from servekit.settings import ClassifierSettings
from tests.fakes.context import ask, make_context
from tests.fakes.tiny_classifiers import LABELS, image_file, make_image_classifier, make_text_classifier

SIZES = (1, 4)


def spec_of(folder: Path, kind: str) -> ClassifierSpec:
    make = make_image_classifier if kind == "image" else make_text_classifier
    return load_reader(kind, make(folder / "model"), ClassifierSettings(batch_sizes=SIZES)).spec


def installed() -> bool:
    try:
        importlib.metadata.version(ipex.PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


needs_ipex = pytest.mark.skipif(not installed(), reason=f"{ipex.PACKAGE} is not installed: make test-ipex")


@pytest.mark.parametrize(
    ("version", "torch_version", "reason"),
    [
        (None, "2.8.0+cpu", "is not installed; IPEX is at its end; step: compile replaces it"),
        ("2.8.0", "2.13.0+cpu", "2.8.0 needs torch 2.8, here is 2.13.0+cpu; IPEX is at its end"),
        ("2.8.0+gitaf1e8cd", "2.8.0", ""),
    ],
)
def test_it_says_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str | None, torch_version: str, reason: str
) -> None:
    def installed_version(name: str) -> str:
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    spec = spec_of(tmp_path, "image")
    monkeypatch.setattr(importlib.metadata, "version", installed_version)
    monkeypatch.setattr(torch, "__version__", torch_version)
    found = ipex.impossible(spec, tmp_path)
    assert reason in found if reason else found == ""


@pytest.mark.ipex
@needs_ipex
@pytest.mark.parametrize("kind", ["image", "text"])
def test_traced_and_frozen_it_leaves_the_scores_as_they_are(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    spec = spec_of(tmp_path, kind)
    assert ipex.impossible(spec, tmp_path) == ""
    step, runner = load_classifier(spec, ClassifierSettings(step="ipex", batch_sizes=SIZES), tmp_path)
    assert step == "ipex"
    assert "step: compile replaces it" in caplog.text
    module = load_module(spec)
    for rows in (1, 2, 4):
        inputs = spec.example(rows) if spec.is_text else (torch.randn(rows, *spec.shape or ()),)
        with torch.inference_mode():
            torch.testing.assert_close(runner(inputs), module(*inputs), atol=1e-4, rtol=1e-3)


@pytest.mark.ipex
@needs_ipex
def test_auto_measures_it_with_the_others_and_a_handler_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    spec_of(tmp_path, "image")
    settings = {"step": "auto", "candidates": ["eager", "channels_last", "ipex"], "batch_sizes": list(SIZES)}
    context = make_context(tmp_path, {"handler": settings}, name="tiny")
    handler = ClassifierHandler()
    handler.initialize(context)
    assert "ipex" in next(line for line in caplog.messages if "auto takes" in line)
    ((status, body),) = ask(handler, context, [(image_file(), {})])
    assert status == 200
    assert {each["label"] for each in json.loads(body)} == set(LABELS)
