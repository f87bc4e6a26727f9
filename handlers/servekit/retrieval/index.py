"""An index on disk: passages, their vectors in a faiss index, and what they were made by. Reading and searching.

    index.json        IndexInfo: encoder, kind, documents, recall
    vectors.faiss     inner products of vectors of length 1: cosines
    passages.jsonl    a Passage a line, the n-th of the n-th vector

`kit.py index` writes these; knows nothing of how texts become vectors, of documents or of requests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

from servekit import fingerprint
from servekit.retrieval.passages import Filter, Passage, matches
from servekit.vectors import Vectors, normalised

if TYPE_CHECKING:  # it brings torch, and building an index needs none
    from servekit.encoders.module import EncoderSpec

SCHEMA = "servekit.index/1"
INFO_FILE, VECTORS_FILE, PASSAGES_FILE = "index.json", "vectors.faiss", "passages.jsonl"
EXACT_UP_TO = 50_000
"""Passages that match a filter and are compared one by one: an approximate index loses most of them on its way."""
Kind = Literal["flat", "hnsw", "ivf"]


class IndexMismatch(ValueError):
    """The index does not belong to this encoder, or is not one that this code reads."""


@dataclass(frozen=True)
class Hit:
    """What a search found. score: cosine."""

    place: int
    score: float


@dataclass(frozen=True)
class IndexInfo:
    """What an index holds and what it was made by."""

    encoder: dict[str, str]
    """encoder_fingerprint's."""
    kind: Kind
    passages: int
    dimension: int
    splitter: dict[str, int]
    """chunk_size and chunk_overlap, in characters."""
    documents: dict[str, str] = field(default_factory=dict)
    """Sources and the sha256 of their texts."""
    recall: float | None = None
    """Share of the 10 nearest passages by the flat index that this one finds, over a sample; 1 for flat itself."""
    schema: str = SCHEMA

    def write(self, folder: Path) -> None:
        """Write index.json."""
        (folder / INFO_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n")


def read_info(folder: Path) -> IndexInfo:
    """Raises IndexMismatch when there is none, or one of another schema."""
    try:
        document = json.loads((folder / INFO_FILE).read_text())
    except (OSError, ValueError) as error:
        raise IndexMismatch(f"{folder} holds no index: {error}") from None
    if document.get("schema") != SCHEMA:
        raise IndexMismatch(f"{folder / INFO_FILE}: schema {document.get('schema')!r} is not {SCHEMA!r}")
    return IndexInfo(**document)


def encoder_fingerprint(spec: EncoderSpec) -> dict[str, str]:
    """All that decides where a text's vector lies: another of these, another space."""
    return {
        "model_sha256": fingerprint.model_sha256(spec.model_dir),
        "tokenizer_sha256": _tokenizer_sha256(spec.model_dir),
        "pooling": spec.pooling,
        "max_length": str(spec.max_length),
        "precision": spec.precision,
    }


class Index:
    """An index in memory."""

    def __init__(self, folder: Path, encoder: Mapping[str, str], threads: int = 1) -> None:
        """encoder: the fingerprint of the encoder that queries will come from. Raises IndexMismatch."""
        self.info = read_info(folder)
        if wrong := fingerprint.difference(dict(encoder), self.info.encoder):
            raise IndexMismatch(f"the index was made by another encoder: {wrong}")
        faiss.omp_set_num_threads(threads)
        self._faiss = faiss.read_index(str(folder / VECTORS_FILE))
        if self.info.kind == "ivf":
            self._faiss.make_direct_map()  # what reconstructing vectors needs
        lines = (folder / PASSAGES_FILE).read_bytes().splitlines()
        self.passages = [Passage(**json.loads(line)) for line in lines]
        if not len(lines) == self._faiss.ntotal == self.info.passages:
            raise IndexMismatch(
                f"{folder}: {len(lines)} passages and {self._faiss.ntotal} vectors, not {self.info.passages}"
            )
        self._matching = lru_cache(maxsize=256)(self._places)

    def search(self, vectors: Vectors, ks: Sequence[int], filters: Sequence[Filter] = ()) -> list[list[Hit]]:
        """The nearest passages of each vector, best first: up to ks[i] of those that match filters[i].

        vectors: [queries, D]. All queries with the same filter, or none, share one search.
        """
        queries = normalised(vectors)
        wanted = filters or [()] * len(ks)
        found: list[list[Hit]] = [[] for _ in ks]
        for each in dict.fromkeys(wanted):
            rows = [row for row, own in enumerate(wanted) if own == each]
            scores, places = self._nearest(queries[rows], max(ks[row] for row in rows), each)
            for row, row_scores, row_places in zip(rows, scores, places, strict=True):
                hits = [Hit(int(p), float(s)) for p, s in zip(row_places, row_scores, strict=True) if p >= 0]
                found[row] = hits[: ks[row]]
        return found

    def _nearest(self, queries: Vectors, k: int, wanted: Filter) -> tuple[NDArray[Any], NDArray[Any]]:
        if not wanted:
            return self._searched(queries, min(k, self.info.passages), None)
        matching = self._matching(wanted)
        if len(matching) == 0:
            return np.empty((len(queries), 0)), np.empty((len(queries), 0))
        k = min(k, len(matching))
        if len(matching) > EXACT_UP_TO:
            return self._searched(queries, k, faiss.IDSelectorBatch(matching))
        scores = queries @ self._faiss.reconstruct_batch(matching).T  # [queries, matching]
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, order, 1), matching[order]

    def _searched(self, queries: Vectors, k: int, selector: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        if selector is None:
            found: tuple[NDArray[Any], NDArray[Any]] = self._faiss.search(queries, k)
            return found
        parameters = {
            "flat": lambda: faiss.SearchParameters(sel=selector),
            "hnsw": lambda: faiss.SearchParametersHNSW(sel=selector, efSearch=self._faiss.hnsw.efSearch),
            "ivf": lambda: faiss.SearchParametersIVF(sel=selector, nprobe=self._faiss.nprobe),
        }[self.info.kind]()
        filtered: tuple[NDArray[Any], NDArray[Any]] = self._faiss.search(queries, k, params=parameters)
        return filtered

    def _places(self, wanted: Filter) -> NDArray[np.int64]:
        return np.array(
            [place for place, passage in enumerate(self.passages) if matches(passage, wanted)], dtype=np.int64
        )


def _tokenizer_sha256(model_dir: Path) -> str:
    path = model_dir / "tokenizer.json"
    return fingerprint.file_sha256(path) if path.exists() else ""
