"""The encoder as PyTorch runs it: the reference that the other modes are measured against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from servekit.batching import PassLimits, plan_groups
from servekit.encoders.module import EncoderSpec, load_module
from servekit.encoders.rows import Ids, pad


class EagerEncoder:
    """Any shape, nothing compiled."""

    mode = "eager"

    def __init__(self, spec: EncoderSpec) -> None:
        self._pad_id = spec.pad_id
        self._module = load_module(spec)

    @torch.inference_mode()
    def __call__(self, texts: Ids) -> Tensor:
        vectors: Tensor = self._module(*pad(texts, self._pad_id))
        return vectors

    def plan(self, lengths: Sequence[int], limits: PassLimits) -> list[list[int]]:
        return plan_groups(lengths, limits.texts, limits.padding, limits.tokens)

    def slots(self, lengths: Sequence[int]) -> int:
        return len(lengths) * max(lengths)

    def warmup_shapes(self, wanted: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return wanted

    def compilations(self) -> int:
        return 0
