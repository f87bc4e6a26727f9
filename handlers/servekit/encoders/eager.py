"""The encoder as PyTorch runs it: the reference that the other modes are measured against."""

from __future__ import annotations

import torch
from torch import Tensor

from servekit.encoders.module import EncoderSpec, load_module


class EagerEncoder:
    """Any shape, nothing compiled."""

    mode = "eager"

    def __init__(self, spec: EncoderSpec) -> None:
        self._module = load_module(spec)

    @torch.inference_mode()
    def __call__(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        vectors: Tensor = self._module(input_ids, attention_mask)
        return vectors

    def padded_shape(self, rows: int, columns: int) -> tuple[int, int]:
        return rows, columns

    def warmup_shapes(self, wanted: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return wanted
