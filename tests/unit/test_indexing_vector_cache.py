"""Vectors that are kept: whatever is torn off the file, whole records are found again and nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from archives.indexing.vector_cache import COPIED_RECORDS, HASH_BYTES, VectorCache, text_hash
from servekit.vectors import Vectors

D = 3
RECORD = HASH_BYTES + 4 * D
KEYS = [text_hash(f"text {number}") for number in range(5)]


def vectors(count: int, start: int = 0) -> Vectors:
    return np.arange(start * D, (start + count) * D, dtype=np.float32).reshape(count, D)


def test_what_was_added_is_found_again_by_another_process(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "vectors.bin"
    with VectorCache(path, D) as cache:
        assert cache.get(KEYS) == {}
        cache.add(KEYS[:2], vectors(2))
        assert path.stat().st_size == 2 * RECORD  # at once, not when it is closed
        with VectorCache(path, D) as other:
            assert set(other.get(KEYS)) == set(KEYS[:2])
        cache.add(KEYS[2:3], vectors(1, 2))
        assert len(cache) == 3
    with VectorCache(path, D) as cache:
        found = cache.get([KEYS[2], KEYS[0], KEYS[4], KEYS[2]])
        assert list(found) == [KEYS[2], KEYS[0]]
        assert found[KEYS[2]].tolist() == [6, 7, 8]
        assert found[KEYS[0]].tolist() == [0, 1, 2]
        assert found[KEYS[0]].dtype == np.float32


def test_the_file_is_hash_and_little_endian_floats(tmp_path: Path) -> None:
    with VectorCache(tmp_path / "v", D) as cache:
        cache.add(KEYS[:1], vectors(1, 1))
    assert (tmp_path / "v").read_bytes() == KEYS[0] + np.array([3, 4, 5], dtype="<f4").tobytes()


@pytest.mark.parametrize("torn", range(3 * RECORD + 1))
def test_a_torn_record_is_cut_off_and_goes_on_from_there(tmp_path: Path, torn: int) -> None:
    path = tmp_path / "v"
    with VectorCache(path, D) as cache:
        cache.add(KEYS[:3], vectors(3))
    path.write_bytes(path.read_bytes()[:torn])
    whole = torn // RECORD
    with VectorCache(path, D) as cache:
        assert list(cache.get(KEYS)) == KEYS[:whole]
        cache.add(KEYS[3:], vectors(2, 3))
    with VectorCache(path, D) as cache:
        found = cache.get(KEYS)
    assert list(found) == KEYS[:whole] + KEYS[3:]
    assert {key: vector.tolist() for key, vector in found.items()} == {
        key: vectors(1, KEYS.index(key))[0].tolist() for key in found
    }


@pytest.mark.parametrize("zeros", [RECORD, 2 * RECORD, RECORD + 7])
def test_zeros_that_a_power_failure_left_are_cut_off(tmp_path: Path, zeros: int) -> None:
    path = tmp_path / "v"
    with VectorCache(path, D) as cache:
        cache.add(KEYS[:1], vectors(1))
    with path.open("ab") as file:
        file.write(bytes(zeros))
    with VectorCache(path, D) as cache:
        cache.add(KEYS[1:2], vectors(1, 1))
        assert list(cache.get(KEYS)) == KEYS[:2]
    assert path.stat().st_size == 2 * RECORD


def test_keep_forgets_the_others_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "v"
    with VectorCache(path, D) as cache:
        cache.add(KEYS[:4], vectors(4))
        cache.keep([KEYS[3], KEYS[1], text_hash("never there")])
        assert path.stat().st_size == 2 * RECORD
        cache.add(KEYS[:1], vectors(1, 9))
        assert cache.get(KEYS)[KEYS[3]].tolist() == [9, 10, 11]
    with VectorCache(path, D) as cache:
        found = cache.get(KEYS)
        assert list(found) == [KEYS[0], KEYS[1], KEYS[3]]
        assert found[KEYS[0]].tolist() == [27, 28, 29]
        cache.keep([])
        assert (len(cache), path.stat().st_size) == (0, 0)
    assert [each.name for each in tmp_path.iterdir()] == ["v"]


def test_keep_that_was_killed_leaves_all_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "v"
    with VectorCache(path, D) as cache:
        cache.add(KEYS[:2], vectors(2))

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            cache.keep(KEYS[:1])
        monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 2
    with VectorCache(path, D) as cache:
        assert list(cache.get(KEYS)) == KEYS[:2]
    assert [each.name for each in tmp_path.iterdir()] == ["v"]


def test_many_records_are_kept_slice_by_slice(tmp_path: Path) -> None:
    count = COPIED_RECORDS + 5
    keys = [number.to_bytes(HASH_BYTES, "big") for number in range(1, count + 1)]
    with VectorCache(tmp_path / "v", 1) as cache:
        cache.add(keys, np.arange(count, dtype=np.float32).reshape(count, 1))
        cache.keep(keys[1:])
        found = cache.get(keys)
    assert len(found) == count - 1
    assert found[keys[-1]][0] == count - 1


@pytest.mark.parametrize("shape", [(1, D), (3, D), (2, D + 1), (2, 1), (2 * D,)])
def test_vectors_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with VectorCache(tmp_path / "v", D) as cache, pytest.raises(ValueError, match="vectors of shape"):
        cache.add(KEYS[:2], np.zeros(shape, dtype=np.float32))
    assert (tmp_path / "v").stat().st_size == 0


def test_nothing_added_is_nothing(tmp_path: Path) -> None:
    with VectorCache(tmp_path / "v", D) as cache:
        cache.add([], vectors(0))
        assert len(cache) == 0
