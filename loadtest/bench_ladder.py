"""The classifier's ladder on five architectures, in this process: python -m loadtest.bench_ladder.

Random weights in the published shapes, every step that is possible on this machine, batch 1 and 8, the steps of a
model by turns so that noise hits all alike. int8 needs torchao: `make int8`.
Writes docs/benchmarks/ladder.json and .md, where models that were not run keep their figures; the last line is the JSON
document.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from archives.assets import QUANTISER
from loadtest.figures import BENCHMARKS, markdown_table
from loadtest.passport import in_words, passport
from model_configs import HANDLERS_DIR
from servekit.classifiers import LADDER
from servekit.classifiers.auto import best_step
from servekit.classifiers.build import golden_images
from servekit.classifiers.readers import load_reader
from servekit.settings import CANDIDATES, ClassifierSettings
from servekit.timing import by_turns

SIZES = (1, 8)
TOKENS = 64
SECONDS_PER_SIZE = 20.0
AT_LEAST = 5
PIXELS = 224
out = Console(highlight=False)


def write_architecture(name: str, folder: Path) -> None:
    """A transformers folder of this architecture's published shape, with random weights."""
    import transformers
    from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification

    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    # The sizes that differ from the configuration classes' own defaults.
    sizes: dict[str, dict[str, Any]] = {
        "resnet": {},
        "convnext": {},
        "efficientnet": {"width_coefficient": 1.0, "depth_coefficient": 1.0, "image_size": PIXELS, "hidden_dim": 1280},
        "vit": {},
        "distilbert": {},
    }
    config = AutoConfig.for_model(name, num_labels=1000 if name != "distilbert" else 2, **sizes[name])
    auto = AutoModelForSequenceClassification if name == "distilbert" else AutoModelForImageClassification
    network = auto.from_config(config)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            # transformers draws EfficientNet's around 0: its activations become denormal numbers, many times slower.
            torch.nn.init.ones_(layer.weight)
    network.save_pretrained(folder)
    if name == "distilbert":
        from transformers import AutoTokenizer  # any fast tokenizer will do: only the ids' shape matters

        source = folder / "vocab"
        source.mkdir()
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{n}" for n in range(100))]
        (source / "vocab.txt").write_text("\n".join(words))
        (source / "config.json").write_text(json.dumps({"model_type": "distilbert"}))
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    else:
        processor = {
            "image_processor_type": "ViTImageProcessor", "size": {"height": PIXELS, "width": PIXELS},
            "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
        }  # fmt: skip
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))


ARCHITECTURES = {
    "resnet": "ResNet-50", "convnext": "ConvNeXt-Tiny", "efficientnet": "EfficientNet-B0", "vit": "ViT-B/16",
    "distilbert": "DistilBERT",
}  # fmt: skip


def build_packages(name: str, model: Path, artefacts: Path, steps: tuple[str, ...]) -> None:
    """As `kit.py archive` does it, in a process that sees torchao. Random weights have no accuracy to keep."""
    calibration = artefacts.parent / "calibration"
    calibration.mkdir()
    for number, file in enumerate(golden_images()):
        (calibration / f"{number}.png").write_bytes(file)
    (calibration / "texts.txt").write_text("word1 word2 word3\nword4 word5\n")
    settings = {"candidates": steps, "batch_sizes": SIZES, "min_agreement": 0.0}
    command = [sys.executable, "-m", "servekit.classifiers.build", str(model), str(artefacts), name]
    subprocess.run(
        [*command, json.dumps(settings), str(calibration)],
        env={**os.environ, "PYTHONPATH": f"{HANDLERS_DIR}{os.pathsep}{QUANTISER}"},
        stdout=subprocess.DEVNULL,
        check=True,
    )


def measure(name: str, seconds: float) -> dict[str, Any]:
    """Milliseconds of every step at every size, what auto takes, and why the others are not possible."""
    steps = (*CANDIDATES, "bf16", *(("int8",) if (QUANTISER / "torchao").is_dir() else ()))
    with tempfile.TemporaryDirectory(prefix="sk-ladder-") as folder:
        model, artefacts = Path(folder) / "model", Path(folder) / "artefacts"
        artefacts.mkdir()
        write_architecture(name, model)
        build_packages(name, model, artefacts, steps)
        spec = load_reader(name, model, ClassifierSettings(candidates=steps, batch_sizes=SIZES)).spec
        reasons = {step: LADDER[step].impossible(spec, artefacts) for step in LADDER}
        runners = {step: LADDER[step].Runner(spec, artefacts) for step, reason in reasons.items() if not reason}
        table: dict[str, dict[str, float]] = {step: {} for step in runners}
        for size in SIZES:
            inputs = spec.example(size, TOKENS) if spec.is_text else (torch.randn(size, *spec.shape),)  # type: ignore[misc]
            calls = {step: partial(runner, inputs) for step, runner in runners.items()}
            for step, times in by_turns(calls, seconds, AT_LEAST).items():
                table[step][str(size)] = round(statistics.median(times), 2)
    exact: dict[str, dict[str, float]] = {step: ms for step, ms in table.items() if step in CANDIDATES}
    return {
        "model": ARCHITECTURES[name],
        "input": f"{TOKENS} tokens" if name == "distilbert" else f"{PIXELS} × {PIXELS}",
        "ms": table,
        "auto": best_step(exact),
        "impossible": {step: reason for step, reason in reasons.items() if reason},
    }


def markdown(document: dict[str, Any]) -> str:
    """docs/benchmarks/ladder.md."""
    rows = []
    for each in document["models"]:
        for size in map(str, SIZES):
            ms = {step: times[size] for step, times in each["ms"].items()}
            cells = [f"{ms[step]:.1f} ({ms['eager'] / ms[step]:.2f}×)" if step in ms else "–" for step in LADDER]
            rows.append([each["model"], each["input"], size, *cells, each["auto"]])
    reasons = {f"- {step}: {reason}" for each in document["models"] for step, reason in each["impossible"].items()}
    return f"""# The classifier's ladder

Written by `make bench-classifier`. {in_words(document["passport"])}.

Median milliseconds of a forward pass, {document["threads"]} threads, and speed against eager; random weights in the
published shapes. `auto` is what `step: auto` takes from the steps that leave the scores as they are.

{markdown_table(["model", "input", "batch", *LADDER, "auto"], rows)}

Not possible here:

{chr(10).join(sorted(reasons))}
"""


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(ARCHITECTURES), default=list(ARCHITECTURES))
    parser.add_argument("--seconds", type=float, default=SECONDS_PER_SIZE, help="for each model and size")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON document to FILE too")
    arguments = parser.parse_args()
    models = []
    for name in arguments.models:
        models.append(measure(name, arguments.seconds))
        table = Table(models[-1]["model"], *map(str, SIZES), box=None)
        for step, ms in models[-1]["ms"].items():
            table.add_row(step, *(f"{ms[str(size)]:.1f}" for size in SIZES))
        out.print(table)
    record = BENCHMARKS / "ladder.json"
    before = json.loads(record.read_text())["models"] if record.exists() else []
    by_name = {each["model"]: each for each in [*before, *models]}
    known = [by_name[name] for name in ARCHITECTURES.values() if name in by_name]
    document = {"passport": passport(), "threads": torch.get_num_threads(), "models": known}
    record.write_text(json.dumps(document, indent=2) + "\n")
    (BENCHMARKS / "ladder.md").write_text(markdown(document))
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
