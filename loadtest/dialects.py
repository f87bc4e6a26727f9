"""How a payload is asked of each kind of target: path, headers and body. Pure; knows nothing of connections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from loadtest.plan import Target
from loadtest.workload import Payload
from model_configs.loadtest import LoadTest

JSON = "application/json"
TEXT = "text/plain"


@dataclass(frozen=True)
class Call:
    """One request, ready to be sent. path: from the server's root; SageMaker's targets have none."""

    payload: str
    path: str
    content_type: str
    body: bytes
    items: int
    streams: bool


def call(target: Target, load: LoadTest, payload: Payload) -> Call:
    """The request that asks a target for a payload. Raises ValueError when the payload has no form for it."""
    content_type, body = payload.content_type, payload.body
    if target.kind.startswith("openai"):
        content_type, body = JSON, orjson.dumps(_openai_body(target, load, payload))
    elif target.stream and payload.content_type == TEXT:
        parameters = {"max_new_tokens": load.max_tokens}
        content_type = JSON
        body = orjson.dumps({"inputs": payload.body.decode(), "parameters": parameters, "stream": True})
    return Call(payload.name, _path(target), content_type, body, payload.items, target.stream)


def _path(target: Target) -> str:
    if target.kind == "predictions":
        return f"/predictions/{target.model}" + (f"/{target.version}" if target.version else "")
    if target.kind == "invocations":
        return "/invocations"
    if target.kind.startswith("sagemaker"):
        return ""
    end = {"openai-completions": "completions", "openai-chat": "chat/completions", "openai-embeddings": "embeddings"}
    # TorchServe passes what follows the version on to the handler; any other server has the path at its root.
    root = f"/predictions/{target.model}/{target.version}" if target.version else ""
    return f"{root}/v1/{end[target.kind]}"


def _openai_body(target: Target, load: LoadTest, payload: Payload) -> dict[str, Any]:
    given = _json_object(payload) if payload.content_type != TEXT else None
    if target.kind == "openai-embeddings":
        texts = payload.body.decode() if given is None else given.get("input", given.get("inputs"))
        if texts is None:
            raise ValueError(f"{payload.name}: neither input nor inputs for an embedding")
        return {"model": target.model, "input": texts}
    defaults: dict[str, Any] = {"model": target.model, "max_tokens": load.max_tokens, "temperature": 0}
    if given is None:
        text = payload.body.decode()
        chat = target.kind == "openai-chat"
        given = {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
    if target.stream:
        given = given | {"stream": True, "stream_options": {"include_usage": True}}
    return defaults | given


def _json_object(payload: Payload) -> dict[str, Any]:
    if payload.content_type != JSON:
        raise ValueError(f"{payload.name}: {payload.content_type} has no form in OpenAI's dialect")
    found = orjson.loads(payload.body)
    if not isinstance(found, dict):
        raise ValueError(f"{payload.name}: not a JSON object")
    return found
