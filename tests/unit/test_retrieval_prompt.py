"""Prompts out of templates: what fits goes in, and a template that cannot be filled is told before it is served."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from servekit.retrieval.passages import Passage
from servekit.retrieval.prompt import prompt_of
from servekit.settings import RetrievalSettings

TEXTS = st.text(min_size=1, max_size=40).filter(lambda text: text.strip() == text and text != "")


@given(st.lists(TEXTS, min_size=1, max_size=6), TEXTS, st.integers(1, 200))
def test_passages_go_in_best_first_while_they_fit(texts: list[str], question: str, most: int) -> None:
    passages = [Passage("s", "t", 0, text) for text in texts]
    context, _, asked = prompt_of(question, passages, "{context}\0{question}", "{text}", most).partition("\0")
    if "\0" in "".join(texts):
        return
    assert asked == question
    fitting = 1
    while fitting < len(texts) and sum(map(len, texts[: fitting + 1])) <= most:
        fitting += 1
    assert context == ("\n\n".join(texts[:fitting]) if len(texts[0]) <= most else texts[0][:most])


def test_braces_of_documents_and_questions_are_text() -> None:
    passage = Passage("a{b}", "{title}", 0, "{context} {0} {")
    made = prompt_of("{question}", [passage], "{context}|{question}|{{}}", "{source}:{text}", 100)
    assert made == "a{b}:{context} {0} {|{question}|{}"


@pytest.mark.parametrize(
    ("key", "template", "words"),
    [
        ("template", "{context}", "{question} is missing"),
        ("template", "{context} {question} {answer}", "{answer} is none of"),
        ("template", "{context.__class__} {question}", "is none of"),
        ("template", "{context} {question", "written twice"),
        ("passage_template", "{source}", "{text} is missing"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(key: str, template: str, words: str) -> None:
    with pytest.raises(ValidationError, match=key) as error:
        RetrievalSettings.model_validate({key: template})
    assert words in str(error.value)
