"""Texts to vectors: a model's tokenizer and encoder, and forward passes of texts of similar length.

What the embedding and the retrieval handler share with `kit.py index`, so that passages and queries meet in one space.
Knows nothing of requests.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from servekit.batching import plan_groups
from servekit.encoders import load_encoder
from servekit.encoders.module import encoder_spec
from servekit.log import log
from servekit.settings import EmbeddingSettings
from servekit.tokenizer import TextTokenizer, TokenRow
from servekit.vectors import Vectors

Shape = tuple[int, int]


class TextEmbedder:
    """One encoder, ready after warm_up. dimension: of a vector; 0 before warm_up."""

    def __init__(self, name: str, model_dir: Path, settings: EmbeddingSettings, artefacts: Path) -> None:
        """artefacts: the folder with what was compiled. Raises UnsupportedModel, OSError."""
        self._settings = settings
        self.spec = encoder_spec(name, model_dir, settings)
        self.tokenizer = TextTokenizer(self.spec.model_dir, self.spec.max_length, self.spec.trust_remote_code)
        self.encoder = load_encoder(self.spec, settings.compile, artefacts)
        self.dimension = 0

    def warm_up(self) -> float:
        """Run the warm-up shapes, then once more the largest, timed. Returns tokens/s at that shape."""
        warmup = self._settings.warmup
        lengths = sorted({min(length, self.spec.max_length) for length in warmup.lengths})
        batches = sorted({min(batch, self._settings.max_batch_texts) for batch in warmup.batch_sizes})
        shapes = self.encoder.warmup_shapes([(batch, length) for batch in batches for length in lengths])
        for rows, columns in shapes:
            started = time.perf_counter()
            self.dimension = self._forward([[self.tokenizer.pad_id] * columns] * rows, (rows, columns)).shape[1]
            taken_ms = 1e3 * (time.perf_counter() - started)
            log.info("%s: warm-up %d × %d tokens, %.0f ms", self.spec.name, rows, columns, taken_ms)
        rows, columns = max(shapes)
        started = time.perf_counter()
        self._forward([[self.tokenizer.pad_id] * columns] * rows, (rows, columns))
        return rows * columns / (time.perf_counter() - started)

    def embed(self, rows: Sequence[TokenRow]) -> tuple[Vectors, list[Shape]]:
        """Vectors of all rows, [rows, D] float32, in their order, and the shapes of the forward passes."""
        vectors = np.empty((len(rows), self.dimension), dtype=np.float32)
        shapes: list[Shape] = []
        for group, shape, found in self.passes(rows):
            vectors[group] = found
            shapes.append(shape)
        return vectors, shapes

    def passes(self, rows: Sequence[TokenRow]) -> Iterator[tuple[list[int], Shape, Vectors]]:
        """Forward passes one by one, the longest texts first: places in rows, shape, vectors [places, D]."""
        lengths = [len(row.ids) for row in rows]
        for group in plan_groups(lengths, self._settings.max_batch_texts, self._settings.max_padding):
            shape = self.encoder.padded_shape(len(group), lengths[group[0]])
            yield group, shape, self._forward([rows[place].ids for place in group], shape)

    def _forward(self, ids: list[list[int]], shape: Shape) -> Vectors:
        """One forward pass, padded to shape. Returns [len(ids), D]."""
        input_ids = np.full(shape, self.tokenizer.pad_id, dtype=np.int64)
        attention_mask = np.zeros(shape, dtype=np.int64)
        # Rows that only fill a bucket attend to one token: a row of nothing but masked tokens is NaN in softmax.
        attention_mask[len(ids) :, 0] = 1
        for place, row in enumerate(ids):
            input_ids[place, : len(row)] = row
            attention_mask[place, : len(row)] = 1
        vectors = self.encoder(torch.from_numpy(input_ids), torch.from_numpy(attention_mask))
        return np.asarray(vectors[: len(ids)].numpy())
