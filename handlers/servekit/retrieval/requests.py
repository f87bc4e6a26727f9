"""How a query comes and how passages go: plain text, {"query": …}, and OpenAI's completions, which ask for an answer.

Pure functions between bodies and RetrievalRequest; knows nothing of vectors or indexes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from pydantic import Field, model_validator

from servekit.errors import RequestError
from servekit.retrieval.passages import FIELDS, Filter, Passage
from servekit.settings import RetrievalSettings
from servekit.strict import Strict
from servekit.wire import Body, validate

COMPLETIONS, CHAT = "v1/completions", "v1/chat/completions"
Patterns = str | list[str]


class QueryBody(Strict):
    """{"query": "…" | ["…", …], "k": 5, "filters": {"source": "*.md"}, "prompt": true}; `inputs` for query will do."""

    query: str | list[str] | None = None
    inputs: str | list[str] | None = None
    k: Annotated[int, Field(ge=1)] | None = None
    filters: dict[str, Patterns] = Field(default_factory=dict)
    prompt: bool = True

    @model_validator(mode="after")
    def _one_of_both(self) -> QueryBody:
        if (self.query is None) == (self.inputs is None):
            raise ValueError("query, or inputs in its place: just one of them")
        return self


class RetrievalOptions(Strict):
    """What an answer's request may say of its passages, under `retrieval`."""

    k: Annotated[int, Field(ge=1)] | None = None
    filters: dict[str, Patterns] = Field(default_factory=dict)


@dataclass(frozen=True)
class RetrievalRequest:
    """Queries of one request. one: a single query that gets a single reply. with_prompt: with a ready prompt.

    answer: the OpenAI body that the server which writes answers gets, but for its prompt; None where passages are asked
    for. path: of that server's API.
    """

    queries: list[str]
    k: int
    filters: Filter = ()
    one: bool = True
    with_prompt: bool = True
    answer: dict[str, Any] | None = None
    path: str = ""


def parse_request(body: Body, path: str, model_name: str, settings: RetrievalSettings) -> RetrievalRequest:
    """Raises RequestError: 404 for an unknown path or model, 422 for a wrong shape, 413 for too many queries."""
    if path in (COMPLETIONS, CHAT) and settings.answer is not None:
        request = _parse_openai(body, path, model_name, settings)
    elif path == "":
        request = _parse_query(body, settings)
    else:
        there = f"{COMPLETIONS} and {CHAT} and none at all" if settings.answer else "none at all is the only one"
        raise RequestError(404, "unknown_path", f"no such path: {path!r}; there are {there}")
    if not request.queries:
        raise RequestError(422, "empty_query", "there is no query in the request")
    for index, query in enumerate(request.queries):
        if not query.strip():
            raise RequestError(422, "empty_query", "the query is empty" if request.one else f"query {index} is empty")
    if len(request.queries) > settings.max_texts_per_request:
        message = f"{len(request.queries)} queries in one request, the limit is {settings.max_texts_per_request}"
        raise RequestError(413, "too_many_queries", message)
    return request


def render_reply(
    request: RetrievalRequest, found: Sequence[Sequence[tuple[Passage, float]]], prompts: Sequence[str]
) -> bytes:
    """found: for each query passages with their scores, best first; prompts: one for each, if they were asked for."""
    replies = []
    for place, (query, hits) in enumerate(zip(request.queries, found, strict=True)):
        reply: dict[str, Any] = {"query": query, "passages": [source_of(*hit) | {"text": hit[0].text} for hit in hits]}
        if request.with_prompt:
            reply["prompt"] = prompts[place]
        replies.append(reply)
    return orjson.dumps(replies[0] if request.one else replies)


def source_of(passage: Passage, score: float) -> dict[str, Any]:
    """Where a passage stands, and how near it is."""
    return {"source": passage.source, "title": passage.title, "start": passage.start, "score": round(score, 6)}


def _parse_query(body: Body, settings: RetrievalSettings) -> RetrievalRequest:
    if not body.is_json or isinstance(body.content, str):
        return RetrievalRequest([body.content], settings.k)
    parsed = validate(QueryBody, body.content)
    given = parsed.query if parsed.query is not None else parsed.inputs
    one = isinstance(given, str)
    queries = [given] if isinstance(given, str) else list(given or [])
    return RetrievalRequest(queries, _checked_k(parsed.k, settings), _filter(parsed.filters), one, parsed.prompt)


def _parse_openai(body: Body, path: str, model_name: str, settings: RetrievalSettings) -> RetrievalRequest:
    """The body goes on as it is, so that all that the server which answers knows can be asked of it."""
    content = body.content
    if not body.is_json or not isinstance(content, dict):
        raise RequestError(400, "invalid_json", f"{path} takes a JSON object: set Content-Type: application/json")
    if content.get("model", model_name) != model_name:
        raise RequestError(
            404, "model_not_found", f"model: {str(content['model'])[:80]!r} is not served here, {model_name!r} is"
        )
    options = validate(RetrievalOptions, content.get("retrieval", {}))
    question = _last_question(content) if path == CHAT else content.get("prompt")
    if not isinstance(question, str):
        raise RequestError(422, "invalid_request", "prompt: one string" if path == COMPLETIONS else _NO_QUESTION)
    kept = {key: value for key, value in content.items() if key not in ("model", "prompt", "retrieval")}
    return RetrievalRequest(
        [question], _checked_k(options.k, settings), _filter(options.filters), answer=kept, path=path
    )


_NO_QUESTION = "messages: a list of messages, the last one of role user with a text as its content"


def _last_question(content: dict[str, Any]) -> Any:
    messages = content.get("messages")
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
        return None
    return messages[-1].get("content") if messages[-1].get("role") == "user" else None


def _checked_k(k: int | None, settings: RetrievalSettings) -> int:
    if k is not None and k > settings.max_k:
        raise RequestError(422, "invalid_request", f"k: {k} is more than {settings.max_k}")
    return k or settings.k


def _filter(given: dict[str, Patterns]) -> Filter:
    if unknown := [name for name in given if name not in FIELDS]:
        raise RequestError(
            422, "invalid_request", f"filters.{unknown[0][:40]}: unknown field; there are {', '.join(FIELDS)}"
        )
    return tuple(
        (name, (patterns,) if isinstance(patterns, str) else tuple(patterns))
        for name, patterns in sorted(given.items())
    )
