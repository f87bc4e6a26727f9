"""This kit's embedder as a worker has it, without one: python -m loadtest.peers.kit_side PRECISION."""

from __future__ import annotations

import sys

import numpy as np
import torch

from archives.indexing.embedding import embedder_for
from loadtest.peers import side_loop
from loadtest.peers.models import STORE, variant
from servekit.tokenizer import TokenRow
from servekit.vectors import Vectors


def main(precision: str) -> None:
    """See side_loop."""
    embedder = embedder_for(variant(precision), STORE)

    def forward(ids: list[list[int]]) -> Vectors:
        return embedder.embed([TokenRow(row, False, []) for row in ids])[0]

    def embed(texts: list[str]) -> Vectors:
        return embedder.embed(embedder.tokenizer(texts))[0] if texts else np.empty((0, embedder.dimension), np.float32)

    side_loop.serve(["torch"], torch.get_num_threads(), forward, embed)


if __name__ == "__main__":
    main(*sys.argv[1:])
