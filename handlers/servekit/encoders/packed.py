"""An encoder over packed texts: every token is computed, and nothing but tokens.

The layers see one row of all texts' tokens; only attention, a small part of the work at the lengths of an encoder, is
computed in a rectangle, to which the tokens are taken and from which they come back. (arXiv 2107.02027 packs several
texts into padded rows; a row of any length needs no bins.)
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from servekit.encoders.module import PooledEncoder

NAME = "servekit_packed"


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **sizes: Any,
) -> tuple[Tensor, None]:
    """Each text's tokens see one another and no others. query, key, value: [1, heads, T, d]. Returns [1, T, heads, d].

    The signature is that of transformers' attention functions; sizes holds places, slots and mask of PackedEncoder.
    """
    places, slots, mask = sizes["places"], sizes["slots"], sizes["mask"]
    _, heads, _, width = query.shape
    (rows, columns) = places.shape

    def rectangle(packed: Tensor) -> Tensor:  # [B, heads, L, d]
        taken = take(packed[0].transpose(0, 1).flatten(1), places)
        return taken.view(rows, columns, heads, width).transpose(1, 2)

    seen = nn.functional.scaled_dot_product_attention(
        rectangle(query), rectangle(key), rectangle(value), attn_mask=mask, scale=scaling
    )
    back = seen.transpose(1, 2).reshape(rows * columns, heads * width).index_select(0, slots)
    return back.view(1, -1, heads, width), None


def take(packed: Tensor, places: Tensor) -> Tensor:
    """Rows of packed [T, D] by places [B, L]; any row where a place is T. Returns [B * L, D]."""
    return packed.index_select(0, places.clamp(max=packed.shape[0] - 1).flatten())


class PackedEncoder(nn.Module):
    """What rows.pack gives → vectors [B, D] float32."""

    def __init__(self, padded: PooledEncoder) -> None:
        """Takes padded's encoder over and changes how it attends. Raises TypeError for one that cannot be packed."""
        from transformers import AttentionInterface, AttentionMaskInterface

        super().__init__()
        encoder: Any = padded.encoder
        if not packable(encoder):
            raise TypeError(f"{type(encoder).__name__} cannot be packed")
        AttentionInterface.register(NAME, attention)
        AttentionMaskInterface.register(NAME, lambda *_, **__: None)
        encoder.set_attn_implementation(NAME)
        self.encoder, self.pool, self.normalize = encoder, padded.pool, padded.normalize

    def forward(self, input_ids: Tensor, positions: Tensor, places: Tensor, slots: Tensor) -> Tensor:
        filled = places < input_ids.shape[0]  # [B, L]
        mask = torch.zeros(filled.shape).masked_fill(~filled, float("-inf"))[:, None, None]
        hidden = self.encoder(
            input_ids=input_ids[None], position_ids=positions[None], places=places, slots=slots, mask=mask
        ).last_hidden_state  # [1, T, D]
        vectors = self.pool(take(hidden[0], places).view(*places.shape, -1), filled.to(torch.int64))
        return nn.functional.normalize(vectors, dim=1) if self.normalize else vectors


def packable(encoder: Any) -> bool:
    """Whether a transformers model takes positions, and attention functions that are not its own."""
    takes = inspect.signature(encoder.forward).parameters
    known = type(encoder).__module__.startswith("transformers.")
    return known and "position_ids" in takes and bool(getattr(encoder, "_supports_attention_backend", False))


def first_position(encoder: Any) -> int:
    """What the model's embeddings call a text's first token: RoBERTa's family counts on from the padding's id."""
    embeddings = encoder.embeddings
    counts_on = hasattr(embeddings, "create_position_ids_from_input_ids")
    return int(embeddings.padding_idx) + 1 if counts_on else 0
