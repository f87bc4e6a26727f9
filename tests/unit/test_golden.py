from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from servekit.golden import Golden, cosine

GOLDEN = Golden({"inputs": ["a", "b"]}, "vectors", [[1.0, 0.0], [0.6, 0.8]], 0.0001)
SCORES = Golden({"inputs": ["a"]}, "scores", [{"cat": 0.9, "dog": 0.1, "price": -250.0}], 0.01)


def test_saved_and_read(tmp_path: Path) -> None:
    GOLDEN.save(tmp_path)
    assert Golden.parse((tmp_path / "golden.json").read_bytes()) == GOLDEN


def test_the_right_answer_is_right() -> None:
    assert GOLDEN.verdict(json.dumps(GOLDEN.expected).encode()) == ""
    assert GOLDEN.verdict(b"[[2.0, 0.0], [0.6001, 0.8]]") == ""


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (b"<html>", "not JSON"),
        (b"{}", "expected 2 answers"),
        (b"[[1.0, 0.0]]", "expected 2 answers"),
        (b"[[1.0, 0.0], [0.6]]", "answer 1: expected 2 numbers"),
        (b"[[1.0, 0.0], [0.8, 0.6]]", "answer 1: cosine 0.96"),
        (b"[[0.0, 0.0], [0.6, 0.8]]", "answer 0: cosine nan"),
    ],
)
def test_a_wrong_answer_says_what_is_wrong(reply: bytes, problem: str) -> None:
    assert problem in GOLDEN.verdict(reply)


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ([("cat", 0.9), ("dog", 0.1)], ""),
        ([("cat", 0.905)], ""),
        ([("price", -251.0)], ""),
        ([("price", -255.0)], "price has score -255.0000"),
        ([("cat", 0.8)], "cat has score 0.8000, the reference 0.9000"),
        ([("cat", math.nan)], "cat has score nan"),
        ([("cow", 0.9)], "expected one of the labels cat, dog, price"),
        ([], "expected labels with scores"),
    ],
)
def test_scores_are_compared_by_label(labels: list[tuple[str, float]], problem: str) -> None:
    verdict = SCORES.verdict(json.dumps([[{"label": label, "score": score} for label, score in labels]]).encode())
    assert problem in verdict if problem else verdict == ""


def test_cosine() -> None:
    assert cosine([3, 4], [6, 8]) == pytest.approx(1)
    assert cosine([1, 0], [0, 1]) == 0
    assert math.isnan(cosine([0, 0], [1, 0]))
