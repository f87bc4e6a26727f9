"""Intel Extension for PyTorch: optimize, trace and freeze.

ipex.optimize alone, which is what TorchServe's BaseHandler does under ipex_enable, was 3.6 times slower than eager on
ResNet-50; traced and frozen it was twice as fast. 2.8 is IPEX's last release and loads under torch 2.8 only.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import torch
from torch import Tensor

from servekit.classifiers.module import ClassifierSpec, Inputs, images_to_nhwc, load_module, module_to_nhwc
from servekit.log import log

NAME = "ipex"
PACKAGE = "intel-extension-for-pytorch"
SUCCESSOR = "IPEX is at its end; step: compile replaces it"


def impossible(spec: ClassifierSpec, artefacts: Path) -> str:
    """IPEX has to be installed, and made for this torch."""
    try:
        version = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return f"{PACKAGE} is not installed; {SUCCESSOR}"
    wanted, found = version.split(".")[:2], torch.__version__.split(".")[:2]
    if wanted != found:
        return f"{PACKAGE} {version} needs torch {'.'.join(wanted)}, here is {torch.__version__}; {SUCCESSOR}"
    if spec.source == "torchscript":
        return "ipex.optimize takes no TorchScript model"
    return ""


class Runner:
    """Any batch size: TorchScript specialises to the sizes that it meets, and the warm-up shows it those."""

    sizes = None

    def __init__(self, spec: ClassifierSpec, artefacts: Path) -> None:
        import intel_extension_for_pytorch as ipex

        log.info("%s: %s %s. %s", spec.name, PACKAGE, importlib.metadata.version(PACKAGE), SUCCESSOR)
        module, example = load_module(spec), spec.example(1)
        if not spec.is_text:
            module, example = module_to_nhwc(module), images_to_nhwc(example)
        self._is_text = spec.is_text
        with torch.inference_mode():
            optimized = ipex.optimize(module, dtype=torch.float32, inplace=True)
            self._module = torch.jit.freeze(torch.jit.trace(optimized, example, strict=False, check_trace=False))

    @torch.inference_mode()
    def __call__(self, inputs: Inputs) -> Tensor:
        logits: Tensor = self._module(*(inputs if self._is_text else images_to_nhwc(inputs)))
        return logits
