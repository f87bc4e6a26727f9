"""Searching an index against brute force, whatever its kind, with filters and without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servekit.retrieval import index as module
from servekit.retrieval.index import INFO_FILE, PASSAGES_FILE, VECTORS_FILE, Index, IndexMismatch, read_info
from servekit.retrieval.passages import Filter, Passage, matches
from servekit.vectors import Vectors, normalised
from tests.fakes.tiny_index import write_index

ENCODER = {"model_sha256": "of the model", "pooling": "mean"}
PASSAGES = [Passage(f"{'ab'[place % 2]}/{place}.md", f"t{place % 3}", 0, f"text {place}") for place in range(60)]
VECTORS = np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index(write_index(tmp_path_factory.mktemp("flat"), PASSAGES, VECTORS, ENCODER), ENCODER)


def brute_force(query: Vectors, k: int, wanted: Filter) -> list[int]:
    scores = normalised(VECTORS) @ normalised(query[None])[0]
    allowed = [place for place, passage in enumerate(PASSAGES) if matches(passage, wanted)]
    return sorted(allowed, key=lambda place: -scores[place])[:k]


FILTERS: list[Filter] = [
    (),
    (("source", ("a/*",)),),
    (("source", ("a/*", "b/1*")), ("title", ("t1",))),
    (("title", ("none",)),),
]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2**31), st.integers(1, 80), st.sampled_from(FILTERS)), min_size=1, max_size=6))
def test_a_batch_finds_what_brute_force_finds(flat: Index, asked: list[tuple[int, int, Filter]]) -> None:
    queries = np.stack([np.random.default_rng(seed).standard_normal(8).astype(np.float32) for seed, _, _ in asked])
    found = flat.search(queries, [k for _, k, _ in asked], [wanted for _, _, wanted in asked])
    for query, hits, (_, k, wanted) in zip(queries, found, asked, strict=True):
        assert [hit.place for hit in hits] == brute_force(query, k, wanted)
        assert all(-1.001 <= hit.score <= 1.001 for hit in hits)


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
@pytest.mark.parametrize("exact_up_to", [0, 50_000])
def test_filters_hold_in_every_kind(
    kind: str, exact_up_to: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """exact_up_to: with 0 faiss's own selectors do it."""
    monkeypatch.setattr(module, "EXACT_UP_TO", exact_up_to)
    folder = write_index(tmp_path, PASSAGES, VECTORS, ENCODER)
    made: faiss.Index = faiss.read_index(str(folder / VECTORS_FILE))
    if kind == "hnsw":
        made = faiss.IndexHNSWFlat(8, 16, faiss.METRIC_INNER_PRODUCT)
        made.add(normalised(VECTORS))
    if kind == "ivf":
        made = faiss.IndexIVFFlat(faiss.IndexFlatIP(8), 8, 1, faiss.METRIC_INNER_PRODUCT)
        made.train(normalised(VECTORS))
        made.add(normalised(VECTORS))
        made.nprobe = 1
        made.make_direct_map()
    faiss.write_index(made, str(folder / VECTORS_FILE))
    replace(read_info(folder), kind=kind).write(folder)  # type: ignore[arg-type]
    hits = Index(folder, ENCODER).search(VECTORS[:5], [10] * 5, [(("source", ("a/*",)),)] * 5)
    assert all(PASSAGES[hit.place].source.startswith("a/") for each in hits for hit in each)
    assert all(len(each) == 10 for each in hits[:1]) or kind == "ivf"


def test_another_encoder_is_named(tmp_path: Path) -> None:
    folder = write_index(tmp_path, PASSAGES, VECTORS, ENCODER)
    with pytest.raises(IndexMismatch, match="pooling: built for mean, here cls"):
        Index(folder, ENCODER | {"pooling": "cls"})


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    folder = write_index(tmp_path, PASSAGES, VECTORS, ENCODER)
    lines = (folder / PASSAGES_FILE).read_bytes().splitlines(keepends=True)
    (folder / PASSAGES_FILE).write_bytes(b"".join(lines[:-1]))
    with pytest.raises(IndexMismatch, match="59 passages and 60 vectors"):
        Index(folder, ENCODER)
    (folder / INFO_FILE).write_text('{"schema": "servekit.index/9"}')
    with pytest.raises(IndexMismatch, match="servekit.index/9"):
        Index(folder, ENCODER)
    (folder / INFO_FILE).write_text("{")
    with pytest.raises(IndexMismatch, match="holds no index"):
        Index(folder, ENCODER)
