"""Kinds of faiss indexes: which for how many, that each finds, and that recall tells how much."""

from __future__ import annotations

import math

import faiss
import numpy as np
import pytest

from archives.indexing.nearest import (
    FLAT_UP_TO,
    HNSW_UP_TO,
    LEAST_PER_CELL,
    cell_count,
    choose_kind,
    make_index,
    recall_against_flat,
)
from servekit.retrieval.index import Kind
from servekit.vectors import Vectors, normalised


def random_vectors(count: int, dimension: int = 16, seed: int = 0) -> Vectors:
    return normalised(np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32))


@pytest.mark.parametrize(
    ("passages", "kind"),
    [
        (1, "flat"),
        (FLAT_UP_TO, "flat"),
        (FLAT_UP_TO + 1, "hnsw"),
        (HNSW_UP_TO, "hnsw"),
        (HNSW_UP_TO + 1, "ivf"),
    ],
)
def test_the_kind_goes_with_the_number(passages: int, kind: Kind) -> None:
    assert choose_kind(passages) == kind


@pytest.mark.parametrize("passages", [1, 38, 39, 1000, 10_000, 100_000, 2_000_000])
def test_every_cell_has_enough_to_learn_from(passages: int) -> None:
    cells = cell_count(passages)
    assert 1 <= cells <= max(1, 4 * math.sqrt(passages))
    assert cells == 1 or cells * LEAST_PER_CELL <= passages
    if passages >= 1_000_000:
        assert cells == int(4 * math.sqrt(passages))


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
@pytest.mark.parametrize("count", [1, 5, 60, 2000])
def test_every_kind_of_any_size_finds_what_it_holds(
    kind: Kind, count: int, capfd: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    vectors = random_vectors(count)
    file = str(tmp_path_factory.mktemp("index") / "vectors.faiss")
    faiss.write_index(make_index(vectors, kind, 2), file)
    index = faiss.read_index(file)  # what it searches by is in the file
    scores, places = index.search(vectors[:50], 1)
    assert places[:, 0].tolist() == list(range(min(count, 50)))
    assert scores[:, 0] == pytest.approx(np.ones(min(count, 50)), abs=1e-5)
    assert recall_against_flat(index, vectors) > (0.75 if kind == "ivf" else 0.99)
    assert capfd.readouterr() == ("", "")  # faiss warns on stderr


def test_the_settings_are_those_that_were_asked_for() -> None:
    vectors = random_vectors(2000)
    graph = make_index(vectors, "hnsw", 1)
    assert (graph.hnsw.efConstruction, graph.hnsw.efSearch) == (200, 128)
    assert graph.hnsw.nb_neighbors(1) == 32
    cells = make_index(vectors, "ivf", 1)
    assert (cells.nlist, cells.nprobe) == (2000 // 39, 8)
    assert make_index(random_vectors(60), "ivf", 1).nprobe == 1
    assert all(each.metric_type == faiss.METRIC_INNER_PRODUCT for each in (graph, cells))


def test_threads_are_set() -> None:
    before = faiss.omp_get_max_threads()
    make_index(random_vectors(2), "flat", 1)
    assert faiss.omp_get_max_threads() == 1
    faiss.omp_set_num_threads(before)


def test_recall_of_the_exact_index_is_one_and_of_half_a_one_about_a_half() -> None:
    vectors = random_vectors(1000)
    assert recall_against_flat(make_index(vectors, "flat", 1), vectors) == 1.0
    half = faiss.IndexIDMap(faiss.IndexFlatIP(16))
    half.add_with_ids(vectors[::2], np.arange(0, 1000, 2))
    assert 0.4 < recall_against_flat(half, vectors) < 0.6
    assert recall_against_flat(faiss.IndexFlatIP(16), vectors) == 0.0


def test_recall_is_the_same_each_time_and_of_no_vector_itself() -> None:
    vectors = random_vectors(3000)
    few = make_index(vectors, "ivf", 1)
    few.nprobe = 1
    found = recall_against_flat(few, vectors)
    assert found == recall_against_flat(few, vectors)
    assert found != recall_against_flat(few, vectors, seed=1)
    assert found < 0.9
    # Queries that are vectors of the index themselves would always find those.
    assert recall_against_flat(few, vectors, k=1) < 1.0


def test_vectors_that_lie_equally_near_are_no_misses() -> None:
    vectors = np.repeat(random_vectors(3), 20, axis=0)
    backwards = faiss.IndexIDMap(faiss.IndexFlatIP(16))
    backwards.add_with_ids(vectors[::-1].copy(), np.arange(60)[::-1].copy())
    assert recall_against_flat(backwards, vectors) == 1.0
