"""The encoder under torch.compile with frozen weights, one graph for each (batch, length) bucket.

Weights are prepacked only when Inductor sees them frozen, and that only under inference_mode or no_grad around the
compiled call (pytorch.org, "Optimized RAG on Graviton": 1.04 times eager without, 1.70 with). Dynamic shapes with
freezing were slower than eager, so batches are padded to buckets, and every bucket is compiled in warm-up.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch._dynamo.config
import torch._dynamo.utils
import torch._inductor.config
from torch import Tensor

from servekit.batching import PassLimits, plan_groups, smallest_at_least
from servekit.encoders.module import EncoderSpec, load_module
from servekit.encoders.rows import Ids, pad
from servekit.settings import CompileSettings


class JitEncoder:
    """Only the bucket shapes."""

    mode = "jit"

    def __init__(self, spec: EncoderSpec, settings: CompileSettings) -> None:
        self._batches = sorted({*(n for n in settings.batch_buckets if n < spec.max_batch), spec.max_batch})
        self._lengths = sorted({*(n for n in settings.length_buckets if n < spec.max_length), spec.max_length})
        # Beyond the limit, 8 by default, Dynamo falls back to eager without a word.
        torch._dynamo.config.recompile_limit = len(self._batches) * len(self._lengths) + 1
        torch._inductor.config.freezing = True
        torch._inductor.config.cpp.weight_prepack = True
        self._pad_id = spec.pad_id
        self._module = torch.compile(load_module(spec), dynamic=False, fullgraph=True)

    @torch.inference_mode()
    def __call__(self, texts: Ids) -> Tensor:
        vectors: Tensor = self._module(*pad(texts, self._pad_id, self._shape([len(text) for text in texts])))
        return vectors[: len(texts)]

    def plan(self, lengths: Sequence[int], limits: PassLimits) -> list[list[int]]:
        # By number alone: a pass of few tokens is padded to a bucket of many.
        return plan_groups(lengths, limits.texts, limits.padding)

    def slots(self, lengths: Sequence[int]) -> int:
        rows, columns = self._shape(lengths)
        return rows * columns

    def warmup_shapes(self, wanted: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return [(rows, columns) for rows in self._batches for columns in self._lengths]

    def compilations(self) -> int:
        return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])

    def _shape(self, lengths: Sequence[int]) -> tuple[int, int]:
        return smallest_at_least(self._batches, len(lengths)), smallest_at_least(self._lengths, max(lengths))
