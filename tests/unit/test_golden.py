from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from servekit.golden import Golden, cosine

GOLDEN = Golden({"inputs": ["a", "b"]}, [[1.0, 0.0], [0.6, 0.8]], 0.9999)


def test_saved_and_read(tmp_path: Path) -> None:
    GOLDEN.save(tmp_path)
    assert Golden.parse((tmp_path / "golden.json").read_bytes()) == GOLDEN


def test_the_right_answer_is_right() -> None:
    assert GOLDEN.verdict(json.dumps(GOLDEN.vectors).encode()) == ""
    assert GOLDEN.verdict(b"[[2.0, 0.0], [0.6001, 0.8]]") == ""


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (b"<html>", "not JSON"),
        (b"{}", "expected 2 vectors"),
        (b"[[1.0, 0.0]]", "expected 2 vectors"),
        (b"[[1.0, 0.0], [0.6]]", "vector 1: expected 2 numbers"),
        (b"[[1.0, 0.0], [0.8, 0.6]]", "vector 1: cosine 0.96"),
        (b"[[0.0, 0.0], [0.6, 0.8]]", "vector 0: cosine nan"),
    ],
)
def test_a_wrong_answer_says_what_is_wrong(reply: bytes, problem: str) -> None:
    assert problem in GOLDEN.verdict(reply)


def test_cosine() -> None:
    assert cosine([3, 4], [6, 8]) == pytest.approx(1)
    assert cosine([1, 0], [0, 1]) == 0
    assert math.isnan(cosine([0, 0], [1, 0]))
