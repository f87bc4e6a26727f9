"""faiss indexes of passages' vectors: which kind, how made, and how much of the exact answer one finds.

Knows nothing of texts or files.
"""

from __future__ import annotations

import math
from typing import Any

import faiss
import numpy as np

from servekit.retrieval.index import Kind
from servekit.vectors import Vectors, normalised

FLAT_UP_TO = 50_000
"""A flat search reads every vector, 77 MB at D = 384, and finds all there is to find. That takes a core 2.7 ms
(measured), when a whole request for a vector of minilm takes 6.1: beyond, the search would be most of a request."""
HNSW_UP_TO = 1_000_000
"""A graph answers in 0.5 ms (50 000 vectors, measured), but building it takes every vector through a search of its
own, 47 s for those on 2 busy cores, and its links add 272 bytes a vector. Cells took 6.5 s and add nothing, and find
less: they are for what would take hours."""
HNSW_LINKS = 32
HNSW_BUILD_BREADTH = 200
HNSW_SEARCH_BREADTH = 128
CELLS_PER_ROOT = 4
"""Cells for each of sqrt(n): what faiss's own guidelines start from."""
LEAST_PER_CELL = 39
"""Vectors a cell that faiss wants to learn its centre from; with fewer it warns."""
LEAST_PROBES = 8
CELLS_PER_PROBE = 16
NOISE = 0.5
"""Length of the noise on a vector of length 1 that makes a query of it: cosine 0.89 to what it was."""
TIE = 1e-6


def choose_kind(passages: int) -> Kind:
    """flat while it is as fast as the encoder, then hnsw, then ivf."""
    if passages <= FLAT_UP_TO:
        return "flat"
    return "hnsw" if passages <= HNSW_UP_TO else "ivf"


def make_index(vectors: Vectors, kind: Kind, threads: int) -> Any:
    """A faiss index of inner products. vectors: [n, D] of length 1, n ≥ 1.

    threads: of all that faiss does in this process from now on. flat and ivf come out the same each time; a graph that
    several threads build does not quite.
    """
    faiss.omp_set_num_threads(threads)
    count, dimension = vectors.shape
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dimension, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = HNSW_BUILD_BREADTH
        index.hnsw.efSearch = HNSW_SEARCH_BREADTH
    elif kind == "ivf":
        index = _cells(vectors, cell_count(count))
    else:
        index = faiss.IndexFlatIP(dimension)
    index.add(vectors)
    return index


def cell_count(passages: int) -> int:
    """Cells of an ivf index: 4 * sqrt(n), fewer where there would not be enough vectors in each."""
    return max(1, min(int(CELLS_PER_ROOT * math.sqrt(passages)), passages // LEAST_PER_CELL))


def recall_against_flat(index: Any, vectors: Vectors, k: int = 10, sample: int = 200, seed: int = 0) -> float:
    """Share of the k nearest vectors by a flat index that this one finds, over queries near some of them.

    vectors: [n, D], those of the index. A query is a vector with noise, so that it is in no index itself. Counted by
    score: of vectors that lie equally near any will do.
    """
    random = np.random.default_rng(seed)
    chosen = np.sort(random.choice(len(vectors), min(sample, len(vectors)), replace=False))
    noise = random.standard_normal((len(chosen), vectors.shape[1])) * (NOISE / math.sqrt(vectors.shape[1]))
    queries = normalised((vectors[chosen] + noise).astype(np.float32))
    k = min(k, len(vectors))
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    wanted, _ = flat.search(queries, k)  # [sample, k], best first
    found, _ = index.search(queries, k)
    return float(np.mean(found >= wanted[:, -1:] - TIE))


def _cells(vectors: Vectors, cells: int) -> Any:
    """An empty ivf index that knows its cells."""
    dimension = vectors.shape[1]
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dimension), dimension, cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1  # cell_count has seen to it, and faiss would warn of a single cell
    index.train(vectors)
    index.nprobe = min(cells, max(LEAST_PROBES, cells // CELLS_PER_PROBE))
    return index
