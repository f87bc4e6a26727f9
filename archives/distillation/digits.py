"""The demo: scikit-learn's digits, a ConvNeXt that knows them, and a small EfficientNet that learns from it.

    python -m archives.distillation.digits                   everything, about 12 minutes on 2 CPUs
    python -m archives.distillation.digits --keep-teacher    the teacher that is in models/digits-teacher

1797 images of 8 × 8 in 16 greys (Alpaydin and Kaynak 1998), by a fixed seed 897 for training, 300 for validation, 600
for the test. Every choice below was made by the validation split.
Writes models/digits-data, models/digits-teacher, archives/shipped/digits and docs/benchmarks/distillation.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from archives.distillation import networks
from archives.distillation.data import stratified
from archives.distillation.distill import distill, train_classifier
from archives.distillation.options import Augment, DistillOptions, TrainOptions
from archives.distillation.report import report_rows
from model_configs import ROOT

MODELS = ROOT / "models"
DATA = MODELS / "digits-data"
STARTS = MODELS / "digits-starts"
TEACHER = MODELS / "digits-teacher"
SHIPPED = ROOT / "archives" / "shipped" / "digits"
REPORT = ROOT / "docs" / "benchmarks" / "distillation"

SPLIT_SEED = 0
TEST_SHARE = 600 / 1797
VALIDATION_SHARE = 300 / 1197
LARGEST_GREY = 16

GREYS: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3}
TEACHER_CONFIG: dict[str, Any] = {
    "architectures": ["ConvNextForImageClassification"],
    "model_type": "convnext",
    "image_size": 64,
    "patch_size": 2,
    "hidden_sizes": [64, 128, 256, 512],
    "depths": [2, 2, 6, 2],
    # The default, 1e-6, is for 300 epochs: in twenty the blocks would hardly begin to count.
    "layer_scale_init_value": 1.0,
    "drop_path_rate": 0.0,
}
TEACHER_INPUT: dict[str, Any] = {
    "image_processor_type": "ConvNextImageProcessor",
    "size": {"shortest_edge": 64},
    "crop_pct": 1.0,
    **GREYS,
}
STUDENT_CONFIG: dict[str, Any] = {
    "architectures": ["EfficientNetForImageClassification"],
    "model_type": "efficientnet",
    "image_size": 32,
    # Times 0.05: a stem of 8 channels, blocks of 8 → 8 → 16 → 24, a head of 64.
    "width_coefficient": 0.05,
    "depth_coefficient": 1.0,
    "in_channels": [160, 160, 320],
    "out_channels": [160, 320, 480],
    "kernel_sizes": [3, 3, 3],
    "strides": [1, 2, 2],
    "num_block_repeats": [1, 1, 1],
    "expand_ratios": [1, 3, 3],
    "hidden_dim": 64,
    # transformers takes TensorFlow's 0.99 for torch's momentum, whose sense is the opposite: it would keep the
    # statistics of the last batch.
    "batch_norm_momentum": 0.1,
    "dropout_rate": 0.0,
    "drop_connect_rate": 0.0,
}
STUDENT_INPUT: dict[str, Any] = {
    "image_processor_type": "EfficientNetImageProcessor",
    "size": {"height": 32, "width": 32},
    "include_top": False,
    **GREYS,
}
AUGMENT = Augment(views=20, shift=0.08, rotation_deg=10.0, zoom=0.1)


def write_images(folder: Path) -> None:
    """The dataset folder, new: {train,validation,test}/<digit>/<number>.png, 8-bit grey."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / LARGEST_GREY)).astype(np.uint8)
    every = [(f"{number:04d}", str(label)) for number, label in enumerate(digits.target)]
    generator = random.Random(SPLIT_SEED)
    rest, test = stratified(every, TEST_SHARE, generator)
    train, validation = stratified(rest, VALIDATION_SHARE, generator)
    shutil.rmtree(folder, ignore_errors=True)
    for split, pairs in (("train", train), ("validation", validation), ("test", test)):
        for number, label in pairs:
            path = folder / split / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[int(number)]).save(path)


def write_start(folder: Path, config: dict[str, Any], image_input: dict[str, Any]) -> Path:
    """A folder to start a training from: a network's shape and its input, no weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "preprocessor_config.json").write_text(json.dumps(image_input, indent=2) + "\n")
    return folder


def teacher_options() -> TrainOptions:
    """About 20 s an epoch on 2 CPUs."""
    start = write_start(STARTS / "teacher", TEACHER_CONFIG, TEACHER_INPUT)
    return TrainOptions(
        model=start, data=DATA, out=TEACHER, epochs=20, patience=20, learning_rate=5e-4, weight_decay=0.05,
        augment=AUGMENT,
    )  # fmt: skip


def student_options() -> DistillOptions:
    """Five seeds, each alone and distilled: the same images in the same order."""
    start = write_start(STARTS / "student", STUDENT_CONFIG, STUDENT_INPUT)
    return DistillOptions(
        teacher=TEACHER, student=start, data=DATA, out=SHIPPED, report=REPORT, epochs=40, patience=40,
        learning_rate=5e-3, augment=AUGMENT, loss="dist", temperature=2.0,
    )  # fmt: skip


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep-teacher", action="store_true", help="do not train the teacher again")
    arguments = parser.parse_args()
    write_images(DATA)
    if not (arguments.keep_teacher and networks.has_weights(TEACHER)):
        run = train_classifier(teacher_options())
        Console(stderr=True).print(f"teacher: {100 * run.validation_accuracy:.2f} % on the validation split")
    report = distill(student_options())
    rows = report_rows(report)
    table = Table(*rows[0], box=None)
    for row in rows:
        table.add_row(*row.values())
    Console(stderr=True, width=140).print(table)
    print(json.dumps(report.document()))


if __name__ == "__main__":
    main()
