"""Texts to vectors: a model's tokenizer and encoder, and forward passes of texts of similar length.

What the embedding and the retrieval handler share with `kit.py index`, so that passages and queries meet in one space.
Knows nothing of requests.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from servekit.batching import PassLimits
from servekit.encoders import load_encoder
from servekit.encoders.module import encoder_spec
from servekit.log import log
from servekit.settings import EmbeddingSettings
from servekit.tokenizer import TextTokenizer, TokenRow
from servekit.vectors import Vectors


class TextEmbedder:
    """One encoder, ready after warm_up. dimension: of a vector; 0 before warm_up."""

    def __init__(self, name: str, model_dir: Path, settings: EmbeddingSettings, artefacts: Path) -> None:
        """artefacts: the folder with what was compiled. Raises UnsupportedModel, UnusableArtefact, OSError."""
        self._settings = settings
        self._limits = PassLimits(settings.max_batch_texts, settings.max_pass_tokens, settings.max_padding)
        self.spec = encoder_spec(name, model_dir, settings)
        self.tokenizer = TextTokenizer(self.spec.model_dir, self.spec.max_length, self.spec.trust_remote_code)
        self.encoder = load_encoder(self.spec, settings.compile, artefacts)
        self.dimension = 0
        self._compiled = 0

    def warm_up(self) -> float:
        """Run the warm-up shapes as far as passes get so large, then once more the largest, timed.

        Returns tokens/s at that shape.
        """
        warmup = self._settings.warmup
        lengths = sorted({min(length, self.spec.max_length) for length in warmup.lengths})
        batches = sorted({min(batch, self._settings.max_batch_texts) for batch in warmup.batch_sizes})
        wanted = self.encoder.warmup_shapes([(batch, length) for batch in batches for length in lengths])
        shapes = dict.fromkeys((self._rows_of_a_pass(rows, columns), columns) for rows, columns in wanted)
        for rows, columns in shapes:
            started = time.perf_counter()
            self.dimension = self.encoder(self._blank(rows, columns)).shape[1]
            taken_ms = 1e3 * (time.perf_counter() - started)
            log.info("%s: warm-up %d × %d tokens, %.0f ms", self.spec.name, rows, columns, taken_ms)
        rows, columns = max(shapes, key=math.prod)
        started = time.perf_counter()
        self.encoder(self._blank(rows, columns))
        self._compiled = self.encoder.compilations()
        return rows * columns / (time.perf_counter() - started)

    def recompiled(self) -> int:
        """Graphs compiled since warm_up or the last call of this: each of them held up a request."""
        before, self._compiled = self._compiled, self.encoder.compilations()
        return self._compiled - before

    def embed(self, rows: Sequence[TokenRow]) -> tuple[Vectors, int]:
        """Vectors of all rows, [rows, D] float32, in their order, and the token slots that were computed for them."""
        vectors = np.empty((len(rows), self.dimension), dtype=np.float32)
        slots = 0
        for group, found in self.passes(rows):
            vectors[group] = found
            slots += self.encoder.slots([len(rows[place].ids) for place in group])
        return vectors, slots

    def passes(self, rows: Sequence[TokenRow]) -> Iterator[tuple[list[int], Vectors]]:
        """Forward passes one by one, the longest texts first: places in rows, vectors [places, D]."""
        for group in self.encoder.plan([len(row.ids) for row in rows], self._limits):
            yield group, np.asarray(self.encoder([rows[place].ids for place in group]).numpy())

    def _rows_of_a_pass(self, rows: int, columns: int) -> int:
        return len(self.encoder.plan([columns] * rows, self._limits)[0])

    def _blank(self, rows: int, columns: int) -> list[list[int]]:
        return [[self.tokenizer.pad_id] * columns] * rows
