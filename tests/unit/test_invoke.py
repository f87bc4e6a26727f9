"""What a prompt or a file becomes for each kind of model, and how answers are said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.client import StreamEnded
from deploy.invoke import Question, ask, question
from model_configs.errors import Failed, KitError
from model_configs.schema import AnyModelConfig, load_model

LLAMA, MINILM, RAG = (load_model(name) for name in ("pydoc-llama", "minilm", "pydoc-rag"))


@pytest.mark.parametrize(
    ("config", "arguments", "body", "streams", "in_lines"),
    [
        (LLAMA, {}, {"inputs": "x", "stream": True}, True, True),
        (LLAMA, {"max_tokens": 3}, {"inputs": "x", "parameters": {"max_new_tokens": 3}, "stream": True}, True, True),
        (LLAMA, {"stream": False}, {"inputs": "x"}, False, False),
        (LLAMA, {"content_type": "text/plain"}, "x", True, False),
        (MINILM, {}, {"inputs": "x"}, False, False),
        (MINILM, {"content_type": "application/json"}, {"inputs": "x"}, False, False),
        (RAG, {}, {"query": "x"}, False, False),
    ],
)
def test_a_prompt_becomes_the_models_own_body(
    config: AnyModelConfig, arguments: dict[str, Any], body: Any, streams: bool, in_lines: bool
) -> None:
    asked = question(config, "x", **arguments)
    given = asked.body.decode() if isinstance(body, str) else json.loads(asked.body)
    assert (given, asked.streams, asked.in_lines) == (body, streams, in_lines)
    assert asked.content_type == ("text/plain" if isinstance(body, str) else "application/json")


@pytest.mark.parametrize(
    ("name", "content_type", "data", "in_lines"),
    [
        ("7.png", "image/png", b"\x89PNG", False),
        ("body.json", "application/json", b'{"inputs": "x", "stream": true}', True),
        ("body.json", "application/json", b'{"prompt": "x", "stream": true}', False),
        ("body.txt", "text/plain", b"x", False),
        ("body", "application/octet-stream", b"x", False),
    ],
)
def test_a_file_is_sent_as_it_is(tmp_path: Path, name: str, content_type: str, data: bytes, in_lines: bool) -> None:
    (tmp_path / name).write_bytes(data)
    assert question(LLAMA, None, tmp_path / name) == Question(data, content_type, True, in_lines)
    assert question(LLAMA, None, tmp_path / name, "x/y").content_type == "x/y"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prompt": None}, "one of a prompt and --file"),
        ({"prompt": "x", "file": Path("y")}, "one of a prompt and --file"),
        ({"prompt": None, "file": Path("/nowhere")}, "No such file"),
        ({"prompt": "x", "config": MINILM, "max_tokens": 3}, "--max-tokens"),
        ({"prompt": "x", "content_type": "text/plain", "max_tokens": 3}, "--max-tokens"),
    ],
)
def test_what_does_not_go_together_is_said(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(KitError, match=words):
        question(**{"config": LLAMA, **arguments})


class Told:
    """Answers with these pieces, and then with an error if there is one."""

    def __init__(self, *pieces: bytes, error: Exception | None = None) -> None:
        self._pieces, self._error = pieces, error

    def invoke(self, body: bytes, content_type: str = "") -> bytes:
        return b"".join(self._pieces)

    def stream(self, body: bytes, content_type: str = "") -> Iterator[bytes]:
        yield from self._pieces
        if self._error:
            raise self._error

    def lines(self, body: bytes, content_type: str = "") -> Iterator[bytes]:
        return self.stream(body)


def test_tgis_lines_are_said_as_text() -> None:
    said: list[str] = []
    lines = [b'data:{"token":{"text":"Gr\xc3\xb6"}}', b"", b'data:{"token":{"text":"\xc3\x9fer"},"generated_text":"x"}']
    answer = ask(Told(*lines), question(LLAMA, "x"), said.append)
    assert said == ["Grö", "ßer"]
    assert (answer.text, answer.pieces) == ("Größer", 2)
    assert answer.document().keys() == {"text", "pieces", "first_s", "total_s"}
    assert answer.row()["characters"] == 6


def test_plain_text_is_said_in_whole_characters() -> None:
    said: list[str] = []
    ask(Told(b"Gr\xc3", b"\xb6\xc3", b"\x9fer"), question(LLAMA, "x", content_type="text/plain"), said.append)
    assert said == ["Gr", "ö", "ßer"]


def test_a_whole_answer_is_said_at_once() -> None:
    said: list[str] = []
    ask(Told(b"[1,", b"2]"), question(MINILM, "x"), said.append)
    assert said == ["[1,2]"]


def test_what_came_before_an_error_was_said() -> None:
    said: list[str] = []
    broken = Told(b"half ", error=StreamEnded("cut", "cut", b"half "))
    with pytest.raises(StreamEnded):
        ask(broken, question(LLAMA, "x", content_type="text/plain"), said.append)
    assert said == ["half "]
    with pytest.raises(Failed, match="cut off"):
        ask(Told(b'data:{"token":{"text":"a"}}'), question(LLAMA, "x"), said.append)
