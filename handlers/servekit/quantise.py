"""Linear layers in 8-bit integers, before they are compiled. torchao makes them when an archive is built; no worker
needs it."""

from __future__ import annotations

from torch import nn


def int8_linears(module: nn.Module) -> nn.Module:
    """Weights by row, activations by token as they come, so nothing is calibrated. The module itself is changed."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    from torchao.utils import unwrap_tensor_subclass

    quantize_(module, Int8DynamicActivationInt8WeightConfig())
    unwrapped: nn.Module = unwrap_tensor_subclass(module)
    return unwrapped
