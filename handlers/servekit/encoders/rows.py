"""Token ids of several texts as the tensors of one forward pass: padded to a rectangle, or packed with no padding.

Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Ids = Sequence[Sequence[int]]


def pad(texts: Ids, pad_id: int, shape: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
    """input_ids and attention_mask, [B, L] int64 each, right-padded.

    shape: (B, L), which may be more than texts fill; what they fill where it is None.
    """
    shape = shape or (len(texts), max(map(len, texts)))
    input_ids = np.full(shape, pad_id, dtype=np.int64)
    attention_mask = np.zeros(shape, dtype=np.int64)
    # Rows that only fill a bucket attend to one token: a row of nothing but masked tokens is NaN in softmax.
    attention_mask[len(texts) :, 0] = 1
    for place, text in enumerate(texts):
        input_ids[place, : len(text)] = text
        attention_mask[place, : len(text)] = 1
    return torch.from_numpy(input_ids), torch.from_numpy(attention_mask)


def pack(texts: Ids, first_position: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All tokens in one row, and where each stands in the rectangle that attention needs.

    first_position: of a text's first token, as the model counts. Returns input_ids [T], positions [T], places [B, L]:
    for each slot of the rectangle its token's index, T where there is none; slots [T]: the way back. int64 each.
    """
    lengths = np.array([len(text) for text in texts])
    tokens, columns = int(lengths.sum()), max(2, int(lengths.max()))
    filled = np.arange(columns) < lengths[:, None]  # [B, L]
    slots = np.flatnonzero(filled)
    places = np.full(filled.size, tokens, dtype=np.int64)
    places[slots] = np.arange(tokens)
    input_ids = np.fromiter((token for text in texts for token in text), dtype=np.int64, count=tokens)
    positions = first_position + slots % columns
    return (
        torch.from_numpy(input_ids),
        torch.from_numpy(positions),
        torch.from_numpy(places.reshape(filled.shape)),
        torch.from_numpy(slots),
    )
