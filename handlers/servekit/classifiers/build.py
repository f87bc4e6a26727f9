"""Run by `kit.py archive` in a process of its own: writes a classifier's golden answer and compiled packages.

    python -m servekit.classifiers.build MODEL_DIR OUT_DIR NAME SETTINGS_JSON [CALIBRATION_DIR]

Writes OUT_DIR/golden.json and the packages of every step that the settings may choose and that this machine can make.
CALIBRATION_DIR: image files, or .txt files with a text a line, as they will come; int8 needs them for images, and
bf16 and int8 are compared on them with float32.
"""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from servekit.classifier_requests import Item
from servekit.classifiers import LADDER, bf16, compiled, eager, int8, packages
from servekit.classifiers.module import ClassifierSpec, Inputs
from servekit.classifiers.readers import load_processor, load_reader
from servekit.errors import RequestError
from servekit.golden import Golden
from servekit.images import decode_image
from servekit.settings import ClassifierSettings

GOLDEN_TEXTS = ("I like this a lot.", "It broke on the first day, and nobody answers.")
GOLDEN_ITEMS = 3
GOLDEN_PIXELS = (96, 64)
EXACT_DIFFERENCE = 0.001
QUANTISED_DIFFERENCE = 0.25
CALIBRATION_ITEMS = 512


def golden_images() -> list[bytes]:
    """PNG files of smooth noise in colour, the same everywhere."""
    from PIL import Image

    files = []
    for seed in range(GOLDEN_ITEMS):
        coarse = np.random.default_rng(seed).integers(0, 256, (6, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(GOLDEN_PIXELS, Image.Resampling.BICUBIC).save(buffer := io.BytesIO(), "PNG")
        files.append(buffer.getvalue())
    return files


def make_golden(spec: ClassifierSpec, settings: ClassifierSettings, typical: Sequence[Item]) -> Golden:
    """The eager model's answer, by transformers' own processor or tokenizer call rather than the handler's.

    typical: items of the calibration, which are asked instead of made-up ones where there are some: what is quantised
    is right on those only.
    """
    count = min(GOLDEN_ITEMS, settings.max_items_per_request)
    run = eager.Runner(spec, Path())
    if spec.is_text:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(spec.model_dir, trust_remote_code=spec.trust_remote_code)
        texts = list(typical or GOLDEN_TEXTS)[:count]
        tokens = tokenizer(texts, padding=True, truncation=True, max_length=spec.max_length, return_tensors="pt")
        body: dict[str, object] = {"inputs": texts}
        logits = run(tuple(tokens[name] for name in spec.input_names))
    else:
        from PIL import Image

        files = [item for item in typical or golden_images() if isinstance(item, bytes)][:count]
        images = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
        body = {"inputs": [base64.b64encode(file).decode() for file in files]}
        logits = run((load_processor(spec.model_dir)(images, return_tensors="pt")["pixel_values"],))
    functions = {"softmax": lambda x: x.softmax(1), "sigmoid": torch.sigmoid, "none": lambda x: x}
    rows = functions[spec.function](logits).tolist()
    expected = [{label: round(score, 6) for label, score in zip(spec.labels, row, strict=True)} for row in rows]
    exact = not {"bf16", "int8"} & set(settings.steps)
    return Golden(body, "scores", expected, EXACT_DIFFERENCE if exact else QUANTISED_DIFFERENCE)


def calibration_items(folder: Path, is_text: bool) -> list[Item]:
    """Up to CALIBRATION_ITEMS image files, or lines of .txt files, in the order of their names. Raises ValueError."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and (path.suffix == ".txt") == is_text)
    if not is_text:
        items: list[Item] = [_checked_image(path) for path in files]
    else:
        items = [line for path in files for line in path.read_text().splitlines() if line.strip()]
    if not items:
        raise ValueError(f"{folder} holds nothing to calibrate with")
    return items[:CALIBRATION_ITEMS]


def _checked_image(path: Path) -> bytes:
    try:
        decode_image(raw := path.read_bytes(), ClassifierSettings().max_image_pixels)
    except RequestError as error:
        raise ValueError(f"{path.name}: {error}") from None
    return raw


def agreement(spec: ClassifierSpec, run: Any, calibration: Sequence[Inputs]) -> float:
    """Share of the items whose best label is the float32 model's. Says nothing where there is one class only."""
    reference = eager.Runner(spec, Path())
    same = [bool((run(inputs).argmax(1) == reference(inputs).argmax(1)).all()) for inputs in calibration]
    return sum(same) / len(same)


def build_packages(spec: ClassifierSpec, settings: ClassifierSettings, out: Path, calibration: list[Inputs]) -> None:
    """The packages of the steps that may run. Raises ValueError when a quantised step changes too many answers."""
    if "compile" in settings.steps and not compiled.impossible(spec, out):
        packages.build("compile", spec, out)
    if "bf16" in settings.steps and not bf16.impossible(spec, out):
        packages.build("bf16", spec, out, bf16.transform)
    if "int8" in settings.steps:
        if not spec.is_text and not calibration:
            raise ValueError("step int8 of an image model needs model.assets.calibration: a folder of typical images")
        int8.build(spec, out, calibration)
    for step in ("bf16", "int8"):
        if calibration and (out / f"{step}.json").exists():
            share = agreement(spec, LADDER[step].Runner(spec, out), calibration)
            print(f"{spec.name}: {step} gives {share:.1%} of {len(calibration)} calibration items fp32's best label")
            if share < settings.min_agreement:
                raise ValueError(
                    f"{step} gives only {share:.1%} of the calibration items the best label that fp32 gives them, "
                    f"handler.min_agreement is {settings.min_agreement:.1%}"
                )


def main(model_dir: str, out_dir: str, name: str, settings_json: str, calibration_dir: str = "") -> None:
    """See the module's docstring."""
    torch.manual_seed(0)
    settings = ClassifierSettings.model_validate_json(settings_json)
    reader = load_reader(name, Path(model_dir), settings)
    items = calibration_items(Path(calibration_dir), reader.spec.is_text) if calibration_dir else []
    make_golden(reader.spec, settings, items).save(Path(out_dir))
    calibration = [reader.stack([example]) for example in reader.read(items)]
    build_packages(reader.spec, settings, Path(out_dir), calibration)


if __name__ == "__main__":
    main(*sys.argv[1:])
