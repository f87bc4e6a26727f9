"""Token ids as the tensors of a pass."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from servekit.encoders.rows import pack, pad

TEXTS = st.lists(st.lists(st.integers(1, 30_000), min_size=1, max_size=40), min_size=1, max_size=12)


@given(TEXTS, st.integers(0, 3))
def test_packed_tokens_stand_once_and_find_back(texts: list[list[int]], first: int) -> None:
    ids, positions, places, slots = pack(texts, first)
    assert ids.tolist() == [token for text in texts for token in text]
    assert positions.tolist() == [first + place for text in texts for place in range(len(text))]
    assert places.shape == (len(texts), max(2, max(map(len, texts))))
    for row, text in enumerate(texts):
        assert ids[places[row, : len(text)]].tolist() == text
        assert (places[row, len(text) :] == len(ids)).all()
    assert places.flatten()[slots].tolist() == list(range(len(ids)))


@given(TEXTS, st.integers(0, 2), st.integers(0, 3))
def test_padded_rows_hold_each_text_and_nothing_else(texts: list[list[int]], more_rows: int, more_columns: int) -> None:
    shape = (len(texts) + more_rows, max(map(len, texts)) + more_columns)
    ids, mask = pad(texts, 7, shape)
    assert ids.shape == mask.shape == shape
    for row, text in enumerate(texts):
        assert ids[row][mask[row].bool()].tolist() == text
        assert (ids[row][len(text) :] == 7).all()
    assert torch.all(mask.sum(1) >= 1)
