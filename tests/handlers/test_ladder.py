"""Every step of the ladder gives eager's scores, and one that is not possible says so and gives way."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from archives.assets import QUANTISER
from model_configs import HANDLERS_DIR
from servekit import aot
from servekit.classifiers import LADDER, auto, int8, load_classifier, packages
from servekit.classifiers.build import main as build
from servekit.classifiers.module import ClassifierSpec, load_module
from servekit.classifiers.readers import load_reader
from servekit.fingerprint import cpu_features
from servekit.machine_cache import VARIABLE
from servekit.settings import ClassifierSettings
from tests.fakes.tiny_classifiers import (
    LABELS,
    SIDE,
    image_file,
    make_image_classifier,
    make_text_classifier,
    write_processor,
)

SIZES = (1, 4)
Built = tuple[ClassifierSpec, Path]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module", params=["image", "text"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A tiny model and the folder with its `compile` packages."""
    folder = tmp_path_factory.mktemp(request.param)
    make = make_image_classifier if request.param == "image" else make_text_classifier
    model, artefacts = make(folder / "model"), folder / "artefacts"
    artefacts.mkdir()
    settings = ClassifierSettings(step="compile", batch_sizes=SIZES)
    build(str(model), str(artefacts), request.param, settings.model_dump_json(exclude_unset=True))
    return load_reader(request.param, model, settings).spec, artefacts


def inputs_of(spec: ClassifierSpec, rows: int, columns: int = 7) -> Any:
    generator = torch.Generator().manual_seed(rows)
    if not spec.is_text:
        return (torch.rand(rows, *spec.shape, generator=generator) * 2 - 1,)  # type: ignore[misc]
    ids = torch.randint(4, 30, (rows, columns), generator=generator)
    mask = torch.ones_like(ids)
    mask[-1, columns // 2 :] = 0
    by_name = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return tuple(by_name[name] for name in spec.input_names)


def same_as_eager(spec: ClassifierSpec, artefacts: Path, step: str, tolerance: float = 1e-4) -> None:
    runner = LADDER[step].Runner(spec, artefacts)
    module = load_module(spec)
    for rows in runner.sizes or (1, 2, 4):
        for columns in (2, 7, 40):
            inputs = inputs_of(spec, rows, columns)
            with torch.inference_mode():
                torch.testing.assert_close(runner(inputs), module(*inputs), atol=tolerance, rtol=1e-3)


@pytest.mark.parametrize("step", ["eager", "channels_last", "ipex", "compile"])
def test_exact_steps_leave_the_scores_as_they_are(built: Built, step: str) -> None:
    spec, artefacts = built
    reason = LADDER[step].impossible(spec, artefacts)
    if reason:
        pytest.skip(reason)
    same_as_eager(spec, artefacts, step)


def test_the_artefacts_hold_one_package_a_size(built: Built) -> None:
    spec, artefacts = built
    names = {path.name for path in artefacts.iterdir()}
    sizes = {"compile.pt2"} if spec.is_text else {"compile.1.pt2", "compile.4.pt2"}
    assert names == {"golden.json", "compile.json", *sizes}


@pytest.mark.slow
def test_packages_for_another_machine_are_compiled_here_once(
    built: Built, tmp_path: Path, own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec, artefacts = built
    other = tmp_path / "other"
    other.mkdir()
    found = json.loads((artefacts / "compile.json").read_text())
    (other / "compile.json").write_text(json.dumps({**found, "isa": "riscv64"}))
    caplog.set_level(logging.INFO)
    same_as_eager(spec, other, "compile")
    assert "isa: built for riscv64" in caplog.text
    assert sum("compiled in" in record.message for record in caplog.records) == 1
    caplog.clear()
    same_as_eager(spec, other, "compile")
    assert "compiled in" not in caplog.text


def test_without_a_compiler_a_fixed_step_gives_way_and_says_why(
    built: Built, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, _ = built
    monkeypatch.setattr(aot, "missing_compiler", lambda: "no C++ compiler: set CXX or install g++")
    caplog.set_level(logging.INFO)
    step, runner = load_classifier(spec, ClassifierSettings(step="int8", batch_sizes=SIZES), tmp_path)
    assert step == ("eager" if spec.is_text else "channels_last")
    assert runner(inputs_of(spec, 2)).shape == (2, len(LABELS))
    assert "step int8 is not possible: there is no int8.json in the archive" in caplog.text
    assert "no C++ compiler" in caplog.text
    assert "intel-extension-for-pytorch" in caplog.text


def test_auto_takes_what_was_measured_and_loads_nothing_else(
    built: Built, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, artefacts = built
    table = {"eager": {"1": 2.0, "4": 8.0}, "compile": {"1": 1.0, "4": 4.0}}
    monkeypatch.setattr(auto, "_measure", lambda *_: (table, True))
    caplog.set_level(logging.INFO)
    for _ in range(2):
        step, _ = load_classifier(spec, ClassifierSettings(batch_sizes=SIZES), artefacts)
        assert step == "compile"
    assert (
        "auto takes compile: eager 2.0, compile 1.0 ms at batch 1; eager 8.0, compile 4.0 ms at batch 4" in caplog.text
    )
    assert "this machine's measurement is in" in caplog.text


CLASS_FILE = """
import torch


class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, stride=2)
        self.head = torch.nn.Linear(4, 3)

    def forward(self, pixel_values):
        return self.head(self.conv(pixel_values).relu().mean((2, 3)))
"""


def tiny_module() -> torch.nn.Module:
    namespace: dict[str, Any] = {}
    exec(CLASS_FILE, namespace)  # noqa: S102 - the text above
    module: torch.nn.Module = namespace["Tiny"]().eval()
    return module


def test_torchscript(tmp_path: Path) -> None:
    module = tiny_module()
    folder = tmp_path / "model"
    folder.mkdir()
    torch.jit.trace(module, torch.zeros(2, 3, SIDE, SIDE)).save(str(folder / "model.pt"))
    write_processor(folder)
    (folder / "index_to_name.json").write_text(json.dumps(dict(enumerate(LABELS))))
    settings = ClassifierSettings(source="torchscript", batch_sizes=SIZES)
    spec = load_reader("x", folder, settings).spec
    step, runner = load_classifier(spec, settings, tmp_path)
    assert step == "eager"
    inputs = inputs_of(spec, 3)
    with torch.inference_mode():
        torch.testing.assert_close(runner(inputs), module(*inputs))


def test_a_class_of_your_own(tmp_path: Path) -> None:
    from safetensors.torch import save_model

    folder, artefacts = tmp_path / "model", tmp_path / "artefacts"
    folder.mkdir()
    artefacts.mkdir()
    (folder / "tiny.py").write_text(CLASS_FILE)
    module = tiny_module()
    save_model(module, str(folder / "model.safetensors"))
    write_processor(folder)
    (folder / "index_to_name.json").write_text(json.dumps(dict(enumerate(LABELS))))
    settings = ClassifierSettings(
        source="module",
        class_file="tiny.py",
        class_name="Tiny",
        trust_remote_code=True,
        step="compile",
        batch_sizes=SIZES,
    )
    build(str(folder), str(artefacts), "own", settings.model_dump_json(exclude_unset=True))
    spec = load_reader("own", folder, settings).spec
    step, runner = load_classifier(spec, settings, artefacts)
    assert step == "compile"
    inputs = inputs_of(spec, 4)
    with torch.inference_mode():
        torch.testing.assert_close(runner(inputs), module(*inputs), atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_bfloat16_is_near_where_it_can_be_compiled(built: Built, tmp_path: Path) -> None:
    """Emulated where the CPU has no bf16, and then refused by `impossible`, but right all the same."""
    from servekit.classifiers import bf16

    spec, _ = built
    packages.build("bf16", spec, tmp_path, bf16.transform)
    same_as_eager(spec, tmp_path, "bf16", tolerance=0.05)
    assert bool(bf16.impossible(spec, tmp_path)) == cpu_features()[1].isdisjoint(bf16.FEATURES)


@pytest.mark.parametrize(("padding", "numbers"), [("same", (2, 1)), ("valid", (0, 0))])
def test_int8_gives_convolutions_their_padding_in_numbers(padding: str, numbers: tuple[int, int]) -> None:
    conv = torch.nn.Conv2d(3, 4, (5, 3), padding=padding)
    pixels = torch.rand(1, 3, 9, 9)
    expected = conv(pixels)
    int8.with_numeric_padding(conv)
    assert conv.padding == numbers
    torch.testing.assert_close(conv(pixels), expected)
    even = torch.nn.Conv2d(3, 4, 2, padding="same")  # uneven: no number says it
    int8.with_numeric_padding(even)
    assert even.padding == "same"


@pytest.mark.slow
@pytest.mark.skipif(not (QUANTISER / "torchao").is_dir(), reason="torchao is not here: make int8")
@pytest.mark.parametrize("kind", ["image", "text"])
def test_int8_is_near_and_judged_on_the_calibration(kind: str, tmp_path: Path) -> None:
    make = make_image_classifier if kind == "image" else make_text_classifier
    model, out, calibration = make(tmp_path / "model"), tmp_path / "out", tmp_path / "calibration"
    for folder in (out, calibration):
        folder.mkdir()
    for seed in range(8):
        (calibration / f"{seed}.png").write_bytes(image_file(seed))
    (calibration / "texts.txt").write_text("the fox\nover the lazy dog\n\nserver model text vector\n")

    def run(settings: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                sys.executable, "-m", "servekit.classifiers.build", str(model), str(out), "tiny",
                json.dumps({"step": "int8", "batch_sizes": [1, 4], **settings}), str(calibration),
            ],
            env={**os.environ, "PYTHONPATH": f"{HANDLERS_DIR}{os.pathsep}{QUANTISER}"},
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip

    result = run({"min_agreement": 0.0})
    assert result.returncode == 0, result.stderr
    items = 8 if kind == "image" else 3
    assert f"of {items} calibration items fp32's best label" in result.stdout
    spec = load_reader("tiny", model, ClassifierSettings(step="int8", batch_sizes=SIZES)).spec
    assert LADDER["int8"].impossible(spec, out) == ""
    if kind == "text":
        same_as_eager(spec, out, "int8", tolerance=0.1)
    else:  # right on what it was calibrated with
        reader = load_reader("tiny", model, ClassifierSettings(step="int8", batch_sizes=SIZES))
        for size in SIZES:
            inputs = reader.stack(reader.read([image_file(seed) for seed in range(size)]))
            with torch.inference_mode():
                expected = load_module(spec)(*inputs)
            torch.testing.assert_close(LADDER["int8"].Runner(spec, out)(inputs), expected, atol=0.1, rtol=0.0)
    assert importlib.util.find_spec("torchao") is None  # neither here nor in a worker
