"""8-bit integers, compiled ahead of time: VNNI and AMX multiply four of them where they multiply one float.

Images: weights and activations are quantised with ranges seen on calibration images (PT2E, X86InductorQuantizer).
Texts: weights by row, activations by token as they come, so nothing is calibrated. torchao makes both when the archive
is built, and no worker needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from servekit.classifiers import packages
from servekit.classifiers.module import ClassifierSpec, Inputs
from servekit.quantise import int8_linears

NAME = "int8"


def impossible(spec: ClassifierSpec, artefacts: Path) -> str:
    """Packages that fit: a worker has neither torchao nor calibration images to make them."""
    return packages.mismatch(NAME, spec, artefacts)


def build(spec: ClassifierSpec, folder: Path, calibration: Sequence[Inputs]) -> None:
    """Quantise and compile. calibration: inputs of one image each; not used for texts."""

    def quantise(module: nn.Module, spec: ClassifierSpec, example: Inputs) -> nn.Module:
        return int8_linears(module) if spec.is_text else _whole_graph(module, example, calibration)

    packages.build(NAME, spec, folder, quantise)


class Runner(packages.Runner):
    """The packages of the archive."""

    def __init__(self, spec: ClassifierSpec, artefacts: Path) -> None:
        super().__init__(NAME, spec, artefacts)


def _whole_graph(module: nn.Module, example: Inputs, calibration: Sequence[Inputs]) -> nn.Module:
    import torchao.quantization.pt2e as pt2e
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    with torch.no_grad():
        exported = torch.export.export(with_numeric_padding(module), example).module()
        quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
        prepared = prepare_pt2e(exported, quantizer)
        for pixels in _in_batches(calibration, len(example[0])):
            prepared(pixels)
        converted: nn.Module = convert_pt2e(prepared)
    pt2e.move_exported_model_to_eval(converted)
    return converted


def with_numeric_padding(module: nn.Module) -> nn.Module:
    """The quantiser does not know convolutions whose padding is a word, as EfficientNet's are."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and isinstance(layer.padding, str):
            spans = [
                d * (k - 1) if layer.padding == "same" else 0
                for d, k in zip(layer.dilation, layer.kernel_size, strict=True)
            ]
            if all(span % 2 == 0 for span in spans):
                layer.padding = (spans[0] // 2, spans[1] // 2)
    return module


def _in_batches(calibration: Sequence[Inputs], size: int) -> list[torch.Tensor]:
    """Batches of just this size, the images from the start again where they run out."""
    images = torch.cat([inputs[0] for inputs in calibration])
    whole = -(-len(images) // size) * size
    return list(images[torch.arange(whole) % len(images)].split(size))
