"""One question to a model from the command line: its body by what the model does, and its answer as it comes.

Knows nothing of where the model is.
"""

from __future__ import annotations

import json
import mimetypes
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.ask import texts_of
from deploy.client import JSON, Endpoint, characters
from model_configs.errors import KitError
from model_configs.schema import AnyModelConfig

GENERATES = "llama_handler.py"
RETRIEVES = "retrieval_handler.py"
TEXT = "text/plain"
HINT = "kit.py invoke --help"


@dataclass(frozen=True)
class Question:
    """streams: whether pieces of the answer are waited for; in_lines: whether these are TGI's `data:` lines."""

    body: bytes
    content_type: str
    streams: bool
    in_lines: bool


@dataclass(frozen=True)
class Answer:
    """text: all of it; first_s: until its first piece came, total_s: until its last."""

    text: str
    pieces: int
    first_s: float
    total_s: float

    def row(self) -> dict[str, Any]:
        """For a table."""
        return {"characters": len(self.text), "pieces": self.pieces, "first s": self.first_s, "total s": self.total_s}

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {"text": self.text, "pieces": self.pieces, "first_s": self.first_s, "total_s": self.total_s}


def question(
    config: AnyModelConfig,
    prompt: str | None,
    file: Path | None = None,
    content_type: str | None = None,
    stream: bool | None = None,
    max_tokens: int | None = None,
) -> Question:
    """A prompt in the model's own JSON unless content_type says otherwise, or a file's bytes as they are.

    stream: None for what the model does. Raises KitError for what does not go together.
    """
    if (prompt is None) == (file is None):
        raise KitError("one of a prompt and --file is needed", HINT)
    generates = config.model.handler == GENERATES
    streams = generates if stream is None else stream
    if max_tokens is not None and not (generates and prompt is not None and content_type in (None, JSON)):
        raise KitError("--max-tokens goes with a prompt of a generation model alone", HINT)
    if prompt is None:
        body, content_type = _from_file(file, content_type)
    elif content_type in (None, JSON):
        body, content_type = _as_json(config.model.handler, prompt, streams, max_tokens), JSON
    else:
        body, content_type = prompt.encode(), str(content_type)
    return Question(body, content_type, streams, in_lines=streams and _asks_for_lines(body))


def ask(endpoint: Endpoint, asked: Question, say: Callable[[str], None]) -> Answer:
    """say gets the answer's text as it comes. Raises Failed; what had come by then was said."""
    started = time.monotonic()
    first_s = 0.0
    said: list[str] = []
    for text in _texts(endpoint, asked):
        first_s = first_s if said else time.monotonic() - started
        said.append(text)
        say(text)
    return Answer("".join(said), len(said), round(first_s, 3), round(time.monotonic() - started, 3))


def _texts(endpoint: Endpoint, asked: Question) -> Iterator[str]:
    if asked.in_lines:
        return texts_of(endpoint.lines(asked.body, asked.content_type))
    if asked.streams:
        return characters(endpoint.stream(asked.body, asked.content_type))
    return characters([endpoint.invoke(asked.body, asked.content_type)])


def _as_json(handler: str, prompt: str, streams: bool, max_tokens: int | None) -> bytes:
    if handler == RETRIEVES:
        return json.dumps({"query": prompt}).encode()
    body: dict[str, Any] = {"inputs": prompt}
    if max_tokens is not None:
        body["parameters"] = {"max_new_tokens": max_tokens}
    return json.dumps(body | ({"stream": True} if streams else {})).encode()


def _from_file(file: Path | None, content_type: str | None) -> tuple[bytes, str]:
    try:
        body = file.read_bytes() if file else b""
    except OSError as error:
        raise KitError(f"{file}: {error.strerror}", "--file FILE") from None
    return body, content_type or mimetypes.guess_type(str(file))[0] or "application/octet-stream"


def _asks_for_lines(body: bytes) -> bool:
    """TGI's dialect, as SageMaker's streaming examples speak it."""
    try:
        document = json.loads(body)
    except ValueError:
        return False
    return isinstance(document, dict) and "inputs" in document and document.get("stream") is True
