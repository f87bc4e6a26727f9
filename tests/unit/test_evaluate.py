"""Recall and nDCG, by hand and in their limits."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archives.indexing import evaluate as module
from archives.indexing.evaluate import Question, evaluate, ndcg, read_questions
from model_configs.errors import KitError

QUESTIONS = Path(module.__file__).parent / "pydoc_questions.jsonl"


def test_the_figures_by_hand() -> None:
    questions = [Question("a", ("x",)), Question("b", ("y", "z")), Question("c", ("w",))]
    found = {
        "a": ["n", "n", "x"],  # the second document
        "b": ["y", "n", "n", "n", "n", "z"],  # z is the third document
        "c": ["n"] * 5 + ["w"],  # not among the first 5 passages
    }
    quality = evaluate(questions, lambda texts, k: [found[text][:k] for text in texts])
    assert quality.questions == 3
    assert quality.recall_at_5 == pytest.approx(2 / 3)
    gains = [1 / math.log2(3), (1 + 1 / math.log2(4)) / (1 + 1 / math.log2(3)), 1 / math.log2(3)]
    assert quality.ndcg_at_10 == pytest.approx(sum(gains) / 3)


@given(st.permutations(["a", "b", "c", "d", "e"]), st.integers(1, 5))
def test_ndcg_is_1_only_where_what_is_right_stands_first(ranked: list[str], count: int) -> None:
    right = ["a", "b", "c", "d", "e"][:count]
    value = ndcg(ranked, right)
    assert 0 < value <= 1 + 1e-12
    assert (value > 1 - 1e-9) == (set(ranked[:count]) == set(right))


def test_the_committed_questions_are_of_topics_that_there_are() -> None:
    from pydoc_data.topics import topics

    questions = read_questions(QUESTIONS)
    assert len(questions) >= 60
    assert len({each.question for each in questions}) == len(questions)
    assert {topic for each in questions for topic in each.topics} <= set(topics)


def test_a_line_that_is_no_question_is_named(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text('{"question": "a", "topics": ["b"]}\n{"question": "a"}\n')
    with pytest.raises(KitError, match=r"questions.jsonl:2"):
        read_questions(file)
