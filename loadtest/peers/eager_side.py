"""sentence-transformers as it comes: python -m loadtest.peers.eager_side MODEL_FOLDER.

A forward pass is the model's alone, under inference_mode; texts go through encode, which sorts them by length and pads
batches of 32.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from loadtest.peers import side_loop

BATCH = 32


def main(folder: str) -> None:
    """See side_loop."""
    model = SentenceTransformer(folder, device="cpu", local_files_only=True)

    def forward(ids: list[list[int]]) -> Any:
        rows = torch.tensor(ids)
        with torch.inference_mode():
            return model({"input_ids": rows, "attention_mask": torch.ones_like(rows)})["sentence_embedding"]

    def embed(texts: list[str]) -> Any:
        return model.encode(texts, batch_size=BATCH, show_progress_bar=False)

    packages = ["sentence-transformers", "transformers", "torch"]
    side_loop.serve(packages, torch.get_num_threads(), forward, embed)


if __name__ == "__main__":
    main(*sys.argv[1:])
