"""The chain over endpoints that answer as they are told."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from deploy.ask import ask, retrieve, texts_of
from model_configs.errors import Failed

PASSAGES = [{"source": "with", "title": "with", "start": 0, "score": 0.9, "text": "long"}]
TGI = [
    b'data:{"token":{"text":"An"}}',
    b"",
    b'data:{"token":{"text":" answer"}}',
    b'data:{"token":{"text":"<s>","special":true},"generated_text":"An answer"}',
]


class Told:
    """Answers with these; remembers what it was asked."""

    def __init__(self, whole: Any = None, lines: Iterable[bytes] = ()) -> None:
        self._whole, self._lines = whole, lines
        self.asked: list[Any] = []

    def invoke(self, body: bytes, content_type: str = "application/json") -> bytes:
        self.asked.append(json.loads(body))
        return json.dumps(self._whole).encode()

    def stream(self, body: bytes, content_type: str = "application/json") -> Iterator[bytes]:
        return iter([self.invoke(body)])

    def lines(self, body: bytes, content_type: str = "application/json") -> Iterator[bytes]:
        self.asked.append(json.loads(body))
        yield from self._lines


def test_a_question_becomes_an_answer_with_sources_piece_by_piece() -> None:
    retriever = Told({"query": "q", "passages": PASSAGES, "prompt": "passages, then q"})
    generator = Told(lines=TGI)
    said: list[str] = []
    found = ask(retriever, generator, "q", 9, said.append, 3)
    assert said == ["An", " answer"]
    assert found["answer"] == "An answer"
    assert found["sources"] == [{"source": "with", "title": "with", "start": 0, "score": 0.9}]
    assert retriever.asked == [{"query": "q", "k": 3}]
    assert generator.asked[0]["inputs"] == "passages, then q"
    assert generator.asked[0]["parameters"] == {"max_new_tokens": 9}


@pytest.mark.parametrize("wrong", [[], {"passages": []}, {"passages": [1], "prompt": ""}, "text", None])
def test_what_is_no_answer_of_a_retrieval_model_is_said(wrong: Any) -> None:
    with pytest.raises(Failed, match="not what a retrieval model answers"):
        retrieve(Told(wrong), "q")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (TGI[:3], "cut off"),
        ([b'data:{"error":"the engine"}'], "the engine"),
        ([b"data:{"], "no JSON"),
        ([b"data:[1]"], "no JSON"),
        ([], "cut off"),
    ],
)
def test_a_stream_that_does_not_end_well_is_said(lines: list[bytes], words: str) -> None:
    with pytest.raises(Failed, match=words):
        list(texts_of(lines))
