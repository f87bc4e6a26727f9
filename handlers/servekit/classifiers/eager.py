"""PyTorch as it is: what every other step is measured against."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from servekit.classifiers.module import ClassifierSpec, Inputs, load_module

NAME = "eager"


def impossible(spec: ClassifierSpec, artefacts: Path) -> str:
    """Always possible."""
    return ""


class Runner:
    """Any batch size."""

    sizes = None

    def __init__(self, spec: ClassifierSpec, artefacts: Path) -> None:
        self._module = load_module(spec)

    @torch.inference_mode()
    def __call__(self, inputs: Inputs) -> Tensor:
        logits: Tensor = self._module(*inputs)
        return logits
