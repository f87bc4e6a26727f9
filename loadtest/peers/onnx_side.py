"""A model in ONNX Runtime: python -m loadtest.peers.onnx_side FILE.onnx MODEL_FOLDER THREADS, by a Python that has it.

Texts are sorted by length and padded in batches of 32, as sentence-transformers does with its ONNX backend.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-not-found,unused-ignore]
from tokenizers import Tokenizer

from loadtest.peers import side_loop

BATCH = 32
MAX_LENGTH = 256


class OnnxModel:
    """The network, mean pooling and normalisation."""

    def __init__(self, file: str, folder: str, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self._inputs = {each.name: each.type for each in self._session.get_inputs()}
        self._tokenizer: Any = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        self._tokenizer.enable_truncation(MAX_LENGTH)
        self._tokenizer.no_padding()

    def forward(self, ids: list[list[int]]) -> Any:
        """Vectors of one batch, padded to its longest row."""
        longest = max(map(len, ids))
        input_ids = np.zeros((len(ids), longest), dtype=np.int64)
        mask = np.zeros_like(input_ids)
        for place, row in enumerate(ids):
            input_ids[place, : len(row)] = row
            mask[place, : len(row)] = 1
        given = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": np.zeros_like(input_ids)}
        # The fused graph takes 32-bit integers.
        feed = {
            name: given[name].astype(np.int32 if "int32" in kind else np.int64) for name, kind in self._inputs.items()
        }
        (hidden,) = self._session.run(["last_hidden_state"], feed)  # [B, L, D]
        weights = mask[:, :, None].astype(np.float32)
        mean = (hidden * weights).sum(1) / weights.sum(1)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    def embed(self, texts: list[str]) -> Any:
        """Vectors of all texts, in their order."""
        ids = [row.ids for row in self._tokenizer.encode_batch_fast([text.strip() for text in texts])]
        order = sorted(range(len(ids)), key=lambda place: -len(ids[place]))
        vectors: Any = None
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            found = self.forward([ids[place] for place in places])
            if vectors is None:
                vectors = np.empty((len(ids), found.shape[1]), dtype=np.float32)
            vectors[places] = found
        return vectors


def main(file: str, folder: str, threads: str) -> None:
    """See side_loop."""
    model = OnnxModel(file, folder, int(threads))
    side_loop.serve(["onnxruntime"], int(threads), model.forward, model.embed)


if __name__ == "__main__":
    main(*sys.argv[1:])
