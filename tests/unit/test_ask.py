"""The chain over endpoints that answer as they are told, and lines out of pieces that are cut anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.ask import ask, retrieve, texts_of
from deploy.client import SageMakerEndpoint, TorchServeEndpoint, whole_lines
from model_configs.errors import Failed, KitError
from tests.fakes.scripted import scripted_server

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
    [(TGI[:3], "cut off"), ([b'data:{"error":"the engine"}'], "the engine"), ([b"data:{"], "no JSON"), ([], "cut off")],
)
def test_a_stream_that_does_not_end_well_is_said(lines: list[bytes], words: str) -> None:
    with pytest.raises(Failed, match=words):
        list(texts_of(lines))


@given(st.lists(st.text(alphabet="aé東\r", max_size=6)), st.lists(st.integers(1, 5), min_size=1))
def test_lines_are_whole_wherever_pieces_end(lines: list[str], sizes: list[int]) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()
    pieces, place, turn = [], 0, 0
    while place < len(data):
        size = sizes[turn % len(sizes)]
        pieces.append(data[place : place + size])
        place, turn = place + size, turn + 1
    assert [line.decode() for line in whole_lines(pieces)] == [line.removesuffix("\r") for line in lines]


def test_endpoints_of_both_kinds_give_lines_and_say_what_went_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    body = b'{"stream": true}'
    with scripted_server(18991, tmp_path) as server:
        local = TorchServeEndpoint(server.url, "first=5,gap=5,tokens=3/1.0/v1/completions")
        remote = SageMakerEndpoint("first=5,gap=5,tokens=3", "us-east-1", server.url)
        for endpoint in (local, remote):
            lines = [line for line in endpoint.lines(body) if line]
            assert lines[-1] == b"data: [DONE]"
            assert len(lines) > 3
        assert json.loads(TorchServeEndpoint(server.url, "delay=1").invoke(b"{}")) == {"answer": 42}
        with pytest.raises(Failed, match="503"):
            TorchServeEndpoint(server.url, "refuse=1").invoke(b"{}")
        with pytest.raises(Failed, match=r"18991/predictions/first=5,gap=5,tokens=3,cut=1"):
            list(TorchServeEndpoint(server.url, "first=5,gap=5,tokens=3,cut=1/1.0/v1/completions").lines(body))
        with pytest.raises(Failed):
            SageMakerEndpoint("refuse=1,tokens=1", "us-east-1", server.url).invoke(b"{}")
    with pytest.raises(Failed):
        TorchServeEndpoint("http://127.0.0.1:9", "m").invoke(b"{}")


def test_sagemaker_without_credentials_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(KitError, match="credentials"):
        SageMakerEndpoint("m", "us-east-1")
