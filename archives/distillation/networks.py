"""Classifiers of transformers, by folder: loaded, started from nothing, saved. Knows nothing of training."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification
from transformers.utils import logging

from archives.distillation.train import deterministic
from model_configs.errors import KitError

# Its bars, one for each file, would run through those of the training.
logging.disable_progress_bar()

Kind = Literal["image", "text"]
AUTO: dict[Kind, Any] = {"image": AutoModelForImageClassification, "text": AutoModelForSequenceClassification}
WEIGHTS = "*.safetensors"
INPUT_FILES = ("*.json", "*.txt", "*.model")
"""Of the processor or the tokenizer."""
NOT_INPUT_FILES = frozenset({"config.json", "report.json", "model.safetensors.index.json"})


def config_of(folder: Path) -> Any:
    """The folder's configuration. Raises KitError if it has none."""
    if not (folder / "config.json").is_file():
        raise KitError(f"{folder} has no config.json: it is not a transformers model", "name a model's folder")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise KitError(f"{folder}/config.json: {error}", "write it with save_pretrained") from None


def trained_config(folder: Path) -> Any:
    """The configuration of a folder that has weights. Raises KitError if it has none."""
    config = config_of(folder)
    if not has_weights(folder):
        raise KitError(f"{folder} has no {WEIGHTS}", "train it first: archives.distillation.distill.train_classifier")
    return config


def labels_of(config: Any) -> tuple[str, ...]:
    """The names of a model's labels by number."""
    return tuple(config.id2label[number] for number in range(config.num_labels))


def has_weights(folder: Path) -> bool:
    """Whether there are any that can be loaded; pickled ones cannot."""
    return any(folder.glob(WEIGHTS))


def load(folder: Path, kind: Kind) -> Any:
    """A trained classifier, for inference. Raises KitError if the folder has no weights or no classifier of kind."""
    config = trained_config(folder)
    return _made(lambda auto: auto.from_pretrained(folder, config=config, local_files_only=True), kind, folder).eval()


def start(folder: Path, kind: Kind, labels: Sequence[str], seed: int) -> Any:
    """A classifier to be trained for labels: from the folder's weights, if any, with a new head where the number of
    labels differs; else from random weights. seed decides all that is random."""
    config = config_of(folder)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: number for number, label in enumerate(labels)}

    def make(auto: Any) -> Any:
        if has_weights(folder):
            return auto.from_pretrained(folder, config=config, ignore_mismatched_sizes=True, local_files_only=True)
        return _normed(auto.from_config(config))

    with deterministic(seed):
        return _made(make, kind, folder)


def save(model: Any, source: Path, out: Path) -> None:
    """config.json with the labels, model.safetensors, and the files that say how source's inputs are made."""
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    if source.resolve() == out.resolve():
        return
    found = {path for pattern in INPUT_FILES for path in source.glob(pattern)}
    for path in sorted(found):
        if path.name not in NOT_INPUT_FILES:
            shutil.copyfile(path, out / path.name)


def parameters(model: Any) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in model.parameters())


def megabytes(model: Any) -> float:
    """Of the weights and buffers, as they are saved."""
    size: int = sum(tensor.nbytes for tensor in model.state_dict().values())
    return size / 1e6


def _normed(model: Any) -> Any:
    """The model with its BatchNorms as PyTorch starts them. transformers draws the scales of EfficientNet's from
    N(0, 0.02): after a few blocks nothing is left of the image, and the network never learns."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_parameters()
    return model


def _made(make: Any, kind: Kind, folder: Path) -> Any:
    try:
        return make(AUTO[kind])
    except (ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise KitError(
            f"{folder} is no classifier of {kind}s: {reason}", "teacher, student and data are of one kind"
        ) from None
