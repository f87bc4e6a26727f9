"""The chain: a question, the passages that a retrieval endpoint finds, and a generation endpoint's answer as it comes.

Each endpoint may be local or SageMaker's. Knows nothing of where they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from deploy.client import Endpoint
from model_configs.errors import Failed


@dataclass(frozen=True)
class Retrieved:
    """sources: each passage's source, title, start and score, best first; prompt: with the passages in it."""

    question: str
    sources: tuple[dict[str, Any], ...]
    prompt: str


def retrieve(endpoint: Endpoint, question: str, k: int | None = None) -> Retrieved:
    """Ask for passages and a ready prompt. Raises Failed."""
    body: dict[str, Any] = {"query": question} | ({"k": k} if k else {})
    reply = endpoint.invoke(json.dumps(body).encode())
    try:
        document = json.loads(reply)
        sources = tuple({key: value for key, value in each.items() if key != "text"} for each in document["passages"])
        return Retrieved(question, sources, str(document["prompt"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Failed(f"not what a retrieval model answers: {reply[:200].decode(errors='replace')}") from None


def generate(endpoint: Endpoint, prompt: str, max_new_tokens: int) -> Iterator[str]:
    """The answer's text, piece by piece. Raises Failed when the stream ends before it should, or says so itself."""
    body = {"inputs": prompt, "parameters": {"max_new_tokens": max_new_tokens}, "stream": True}
    return texts_of(endpoint.lines(json.dumps(body).encode()))


def texts_of(lines: Iterable[bytes]) -> Iterator[str]:
    """The text of TGI's `data:{"token": …}` lines. Raises Failed."""
    ended = False
    for line in lines:
        data = line.removeprefix(b"data:").strip()
        if not data:
            continue
        try:
            event = json.loads(data)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            raise Failed(f"a line that is no JSON: {data[:200].decode(errors='replace')}")
        if event.get("error"):
            raise Failed(f"the answer ended with an error: {event['error']}")
        token = event.get("token") or {}
        if token.get("text") and not token.get("special"):
            yield str(token["text"])
        ended = ended or event.get("generated_text") is not None
    if not ended:
        raise Failed("the answer was cut off")


def ask(
    retriever: Endpoint,
    generator: Endpoint,
    question: str,
    max_new_tokens: int,
    say: Callable[[str], None],
    k: int | None,
) -> dict[str, Any]:
    """Retrieve, then generate; say gets the answer's pieces as they come. Returns the whole. Raises Failed."""
    found = retrieve(retriever, question, k)
    pieces = []
    for piece in generate(generator, found.prompt, max_new_tokens):
        pieces.append(piece)
        say(piece)
    return {"question": question, "answer": "".join(pieces), "sources": list(found.sources)}
