"""Compiled as `compile` is, in bfloat16: half the bytes, and AMX's or AVX-512's bf16 units where the CPU has them.

Elsewhere oneDNN emulates bf16, slower than float32.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from servekit.classifiers import packages
from servekit.classifiers.module import ClassifierSpec, Inputs
from servekit.fingerprint import cpu_features

NAME = "bf16"
FEATURES = ("amx_bf16", "avx512_bf16", "bf16")


class InBfloat16(nn.Module):
    """Float inputs and weights in bfloat16, logits in float32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.bfloat16()

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = self.module(*(each.bfloat16() if each.is_floating_point() else each for each in inputs))
        return logits


def transform(module: nn.Module, spec: ClassifierSpec, example: Inputs) -> nn.Module:
    """What is compiled."""
    return InBfloat16(packages.as_is(module, spec, example)).eval()


def impossible(spec: ClassifierSpec, artefacts: Path) -> str:
    """A CPU that computes in bfloat16, and packages or a compiler."""
    if cpu_features()[1].isdisjoint(FEATURES):
        return f"this CPU has none of {', '.join(FEATURES)}"
    return packages.impossible(NAME, spec, artefacts)


class Runner(packages.Runner):
    """The packages of the archive, or of this machine's cache."""

    def __init__(self, spec: ClassifierSpec, artefacts: Path) -> None:
        super().__init__(NAME, spec, packages.find_or_build(NAME, spec, artefacts, transform))
