"""Linear layers in fewer bits, before they are compiled.

torchao makes the 8-bit ones when an archive is built; no worker needs it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def int8_linears(module: nn.Module) -> nn.Module:
    """Weights by row, activations by token as they come, so nothing is calibrated. The module itself is changed."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    from torchao.utils import unwrap_tensor_subclass

    quantize_(module, Int8DynamicActivationInt8WeightConfig())
    unwrapped: nn.Module = unwrap_tensor_subclass(module)
    return unwrapped


class Bfloat16Linear(nn.Module):
    """A linear layer in bfloat16 between float32 neighbours: sums, norms and softmax keep their precision."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear.bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = self.linear(x.to(torch.bfloat16))
        return product.float()


def bf16_linears(module: nn.Module) -> nn.Module:
    """Every linear layer by a Bfloat16Linear. The module itself is changed."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, Bfloat16Linear(child))
        else:
            bf16_linears(child)
    return module


LINEARS: dict[str, Callable[[nn.Module], nn.Module]] = {"int8": int8_linears, "bf16": bf16_linears}
"""By handler.compile.precision."""
