"""The dialects in which texts come and vectors go: plain text, {"inputs"}, OpenAI embeddings.

Pure functions between bodies and EmbeddingRequest; knows nothing of tokens, models or TorchServe.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field

from servekit.errors import RequestError
from servekit.strict import Strict
from servekit.vectors import Vectors, shorten
from servekit.wire import Body, validate

OPENAI_EMBEDDINGS = "v1/embeddings"


class InputsBody(Strict):
    """{"inputs": "text" | ["text", …], "truncate": true}"""

    inputs: str | list[str]
    truncate: bool = True


class OpenAIBody(Strict):
    """OpenAI's embeddings request. Token ids are refused: they would be another model's."""

    input: str | list[str]
    model: str
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None
    truncate: bool = True


@dataclass(frozen=True)
class EmbeddingRequest:
    """Texts to embed, and how to answer.

    one: the client sent a single text and gets a single vector. openai: the OpenAI options, None for other dialects.
    """

    texts: list[str]
    truncate: bool = True
    one: bool = False
    openai: OpenAIBody | None = None


def parse_request(body: Body, path: str, model_name: str, dimension: int) -> EmbeddingRequest:
    """Raises RequestError: 404 for an unknown path or model, 400 for values out of range, 422 for a wrong shape."""
    if path == OPENAI_EMBEDDINGS:
        request = _parse_openai(body, model_name, dimension)
    elif path == "":
        request = _parse_inputs(body)
    else:
        raise RequestError(
            404, "unknown_path", f"no such path: {path!r}; there are {OPENAI_EMBEDDINGS} and none at all"
        )
    if not request.texts:
        raise RequestError(422, "empty_input", "there is no text in the request")
    for index, text in enumerate(request.texts):
        if not text.strip():
            where = "the text" if request.one else f"text {index}"
            raise RequestError(422, "empty_input", f"{where} is empty")
    return request


def _parse_inputs(body: Body) -> EmbeddingRequest:
    if not body.is_json:
        return EmbeddingRequest([body.content], one=True)
    if isinstance(body.content, str):
        return EmbeddingRequest([body.content], one=True)
    parsed = validate(InputsBody, body.content)
    one = isinstance(parsed.inputs, str)
    return EmbeddingRequest([parsed.inputs] if isinstance(parsed.inputs, str) else parsed.inputs, parsed.truncate, one)


def _parse_openai(body: Body, model_name: str, dimension: int) -> EmbeddingRequest:
    if not body.is_json:
        raise RequestError(400, "invalid_json", f"{OPENAI_EMBEDDINGS} takes JSON: set Content-Type: application/json")
    if isinstance(body.content, dict) and _holds_token_ids(body.content.get("input")):
        raise RequestError(
            422,
            "token_ids",
            "input: token ids are not accepted, send text "
            "(LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False))",
        )
    parsed = validate(OpenAIBody, body.content)
    if parsed.model != model_name:
        raise RequestError(404, "model_not_found", f"model: {parsed.model!r} is not served here, {model_name!r} is")
    if parsed.dimensions is not None and parsed.dimensions > dimension:
        raise RequestError(400, "invalid_dimensions", f"dimensions: {parsed.dimensions} is more than {dimension}")
    texts = [parsed.input] if isinstance(parsed.input, str) else parsed.input
    return EmbeddingRequest(texts, parsed.truncate, isinstance(parsed.input, str), parsed)


def _holds_token_ids(value: Any) -> bool:
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, int) and not isinstance(value, bool)


def render_reply(request: EmbeddingRequest, vectors: Vectors, tokens: int) -> bytes:
    """vectors: [texts, D] float32, C-contiguous; tokens: how many were read. Returns the body, JSON."""
    if request.openai is None:
        return orjson.dumps(vectors[0] if request.one else vectors, option=orjson.OPT_SERIALIZE_NUMPY)
    if request.openai.dimensions is not None:
        vectors = shorten(vectors, request.openai.dimensions)
    encode = _base64 if request.openai.encoding_format == "base64" else _same
    data = [
        {"object": "embedding", "index": index, "embedding": encode(vector)} for index, vector in enumerate(vectors)
    ]
    reply = {
        "object": "list",
        "data": data,
        "model": request.openai.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)


def _base64(vector: Vectors) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")


def _same(vector: Vectors) -> Vectors:
    return vector
