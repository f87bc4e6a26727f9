"""The encoder under torch.compile with frozen weights, one graph for each (batch, length) bucket.

Weights are prepacked only when Inductor sees them frozen, and that only under inference_mode or no_grad around the
compiled call (pytorch.org, "Optimized RAG on Graviton": 1.04 times eager without, 1.70 with). Dynamic shapes with
freezing were slower than eager, so batches are padded to buckets, and every bucket is compiled in warm-up.
"""

from __future__ import annotations

import torch
import torch._dynamo.config
import torch._inductor.config
from torch import Tensor

from servekit.batching import smallest_at_least
from servekit.encoders.module import EncoderSpec, load_module
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
        self._module = torch.compile(load_module(spec), dynamic=False, fullgraph=True)

    @torch.inference_mode()
    def __call__(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        vectors: Tensor = self._module(input_ids, attention_mask)
        return vectors

    def padded_shape(self, rows: int, columns: int) -> tuple[int, int]:
        return smallest_at_least(self._batches, rows), smallest_at_least(self._lengths, columns)

    def warmup_shapes(self, wanted: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return [(rows, columns) for rows in self._batches for columns in self._lengths]
