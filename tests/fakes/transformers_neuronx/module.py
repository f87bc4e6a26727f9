"""Checkpoints: where weights are looked for in a folder, and the split form, one file for each tensor."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

SPLIT = "pytorch_model.bin"
SPLIT_INDEX = "key_to_filename.json"


def save_pretrained_split(model: Any, folder: str | Path) -> None:
    """config.json, and a directory named pytorch_model.bin with a file for each tensor."""
    folder = Path(folder)
    split = folder / SPLIT
    split.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    names = {key: f"p{place}.{key}" for place, key in enumerate(model.state_dict())}
    for key, tensor in model.state_dict().items():
        torch.save(tensor.clone(), split / names[key])
    (split / SPLIT_INDEX).write_text(json.dumps(names))


def model_type(folder: Path) -> str:
    """config.json's model_type."""
    return str(json.loads((folder / "config.json").read_text())["model_type"])


def find_weights(folder: Path) -> Path:
    """The checkpoint that the real library takes, in its order. Raises FileNotFoundError."""
    names = ("model.safetensors", "model.safetensors.index.json", SPLIT, "pytorch_model.bin.index.json")
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(f"Could not find any of {', '.join(names)} in {folder}")


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Every tensor by its name."""
    folder = checkpoint.parent
    if checkpoint.name == "model.safetensors":
        return load_file(checkpoint)
    if checkpoint.is_dir():
        names = json.loads((checkpoint / SPLIT_INDEX).read_text())
        return {key: torch.load(checkpoint / name, weights_only=True) for key, name in names.items()}
    if checkpoint.suffix == ".bin":
        return dict(torch.load(checkpoint, weights_only=True))
    files: Iterable[str] = set(json.loads(checkpoint.read_text())["weight_map"].values())
    tensors: dict[str, Tensor] = {}
    for name in files:
        path = folder / name
        tensors |= load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    return tensors
