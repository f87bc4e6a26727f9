"""Convolutions over NHWC memory, the layout that oneDNN computes in: no reordering around every layer."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from servekit.classifiers.module import ClassifierSpec, Inputs, images_to_nhwc, load_module, module_to_nhwc

NAME = "channels_last"


def impossible(spec: ClassifierSpec, artefacts: Path) -> str:
    """Texts have no channels."""
    if spec.is_text:
        return "token ids have no channels"
    if spec.source == "torchscript":
        return "a TorchScript model keeps the layout it was saved in"
    return ""


class Runner:
    """Any batch size."""

    sizes = None

    def __init__(self, spec: ClassifierSpec, artefacts: Path) -> None:
        self._module = module_to_nhwc(load_module(spec))

    @torch.inference_mode()
    def __call__(self, inputs: Inputs) -> Tensor:
        logits: Tensor = self._module(*images_to_nhwc(inputs))
        return logits
