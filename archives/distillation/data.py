"""A dataset folder: images in a folder for each label, or texts in a table; its splits, and its labels by name.

    <root>/{train,validation,test}/<label>/*.png      images; validation and test may be missing
    <root>/<label>/*.png                              images in one heap
    <root>/{train,validation,test}.{jsonl,csv}        texts, columns `text` and `label`; two may be missing as well

A split that is missing is cut from train: the same share of each label, drawn by a seed. Knows nothing of models.
"""

from __future__ import annotations

import csv
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from model_configs.errors import KitError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
TABLE_SUFFIXES = (".jsonl", ".csv")
SHARES = {"test": 0.2, "validation": 0.15}
"""What is cut from train for a split that is missing."""
SEED = 0

Pair = tuple[str, str]
"""An item, which is an image's path or a text, and its label's name."""


@dataclass(frozen=True)
class Split:
    """items: paths of images, or texts. targets: the number of each one's label."""

    items: tuple[str, ...]
    targets: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class Dataset:
    """labels: by number."""

    folder: Path
    kind: Literal["image", "text"]
    labels: tuple[str, ...]
    train: Split
    validation: Split
    test: Split


def read(folder: Path, seed: int = SEED) -> Dataset:
    """The folder's items; none is opened but the tables. Raises KitError that names what is wrong and where."""
    if not folder.is_dir():
        raise KitError(f"{folder} is not a folder", "a dataset is a folder; see archives/distillation/data.py")
    tables = _tables(folder)
    pairs = {name: _rows(path) for name, path in tables.items()} if tables else _images(folder)
    if not pairs.get("train"):
        raise KitError(
            f"{folder} holds no training data", "make train/<label>/*.png, <label>/*.png, train.jsonl or train.csv"
        )
    labels = _labels(folder, pairs)
    generator = random.Random(seed)
    for name, share in SHARES.items():
        if name not in pairs:
            pairs["train"], pairs[name] = stratified(pairs["train"], share, generator)
    splits = {name: _split(found, labels) for name, found in pairs.items()}
    return Dataset(
        folder,
        "text" if tables else "image",
        labels,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
    )


def in_order(dataset: Dataset, labels: Sequence[str]) -> Dataset:
    """The dataset with its labels numbered as a model numbers them. Raises KitError unless they are the same ones."""
    if set(dataset.labels) != set(labels):
        raise KitError(
            f"{dataset.folder}: its labels are {_some(dataset.labels)}; the model's are {_some(labels)}",
            "rename the folders or labels, or set id2label and label2id in the model's config.json",
        )
    number = {name: place for place, name in enumerate(labels)}
    new = [number[name] for name in dataset.labels]

    def renumbered(split: Split) -> Split:
        return replace(split, targets=tuple(new[target] for target in split.targets))

    return replace(
        dataset,
        labels=tuple(labels),
        train=renumbered(dataset.train),
        validation=renumbered(dataset.validation),
        test=renumbered(dataset.test),
    )


def stratified(pairs: Sequence[Pair], share: float, generator: random.Random) -> tuple[list[Pair], list[Pair]]:
    """What stays and what is cut: about share of each label, at least one, and at least one stays.

    Raises KitError for a label that has too few items.
    """
    by_label: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_label[pair[1]].append(pair)
    kept: list[Pair] = []
    cut: list[Pair] = []
    for label in sorted(by_label):
        own = by_label[label]
        if len(own) < 2:
            raise KitError(
                f"the label {label!r} has too few items to be in every split", "add some, or make the splits yourself"
            )
        generator.shuffle(own)
        count = min(max(1, round(share * len(own))), len(own) - 1)
        cut += own[:count]
        kept += own[count:]
    return kept, cut


def _tables(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name in ("train", *SHARES):
        paths = [path for suffix in TABLE_SUFFIXES if (path := folder / f"{name}{suffix}").is_file()]
        if len(paths) > 1:
            raise KitError(f"{folder} has both {paths[0].name} and {paths[1].name}", "remove one of them")
        if paths:
            found[name] = paths[0]
    return found


def _rows(path: Path) -> list[Pair]:
    with path.open(encoding="utf-8", newline="") as file:
        lines = (
            list(csv.DictReader(file)) if path.suffix == ".csv" else [_json_row(path, *line) for line in _lines(file)]
        )
    pairs = [(row.get("text"), row.get("label")) for row in lines]
    for number, (text, label) in enumerate(pairs, start=1):
        if not isinstance(text, str) or not text.strip() or not isinstance(label, (str, int)) or label == "":
            raise KitError(f"{path}: row {number} has no text or no label", "every row has the columns text and label")
    return [(str(text), str(label)) for text, label in pairs]


def _lines(file: Iterable[str]) -> list[tuple[int, str]]:
    return [(number, line) for number, line in enumerate(file, start=1) if line.strip()]


def _json_row(path: Path, number: int, line: str) -> dict[str, object]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise KitError(f"{path}:{number}: not JSON: {error.msg}", 'each line is {"text": …, "label": …}') from None
    if not isinstance(row, dict):
        raise KitError(f"{path}:{number}: not an object", 'each line is {"text": …, "label": …}')
    return row


def _images(folder: Path) -> dict[str, list[Pair]]:
    if not (folder / "train").is_dir():
        return {"train": _labelled(folder)}
    return {name: _labelled(folder / name) for name in ("train", *SHARES) if (folder / name).is_dir()}


def _labelled(folder: Path) -> list[Pair]:
    pairs: list[Pair] = []
    for own in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        images = sorted(path for path in own.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        if not images:
            raise KitError(f"{own} holds no images", f"known are: {' '.join(sorted(IMAGE_SUFFIXES))}")
        pairs += [(str(path), own.name) for path in images]
    return pairs


def _labels(folder: Path, pairs: dict[str, list[Pair]]) -> tuple[str, ...]:
    by_split = {name: {label for _, label in found} for name, found in pairs.items()}
    labels = sorted(by_split["train"])
    if len(labels) < 2:
        raise KitError(f"{folder} has one label only, {labels[0]!r}", "a classifier needs two or more")
    for name, found in by_split.items():
        if found != set(labels):
            differing = _some(sorted(found ^ set(labels)))
            raise KitError(f"{folder}: train and {name} do not have the same labels: {differing}", "add or rename some")
    return tuple(labels)


def _split(pairs: Sequence[Pair], labels: Sequence[str]) -> Split:
    number = {name: place for place, name in enumerate(labels)}
    return Split(tuple(item for item, _ in pairs), tuple(number[label] for _, label in pairs))


def _some(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
