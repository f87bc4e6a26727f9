"""Answers by another server, from a prompt with passages in it: OpenAI's dialect there and back, sources added.

Knows HTTP and server-sent events; nothing of indexes, and of TorchServe only that chunks are sent by a function.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

import orjson

from servekit.errors import RequestError
from servekit.retrieval.requests import CHAT, RetrievalRequest
from servekit.settings import URL_VARIABLE, AnswerSettings

MOST_ERROR_BYTES = 2048
DEFAULT_URL = "http://127.0.0.1:8080"
EVENT_STREAM = "text/event-stream"
Send = Callable[[bytes], None]


class AnswerFailed(Exception):
    """The server that writes answers cannot be reached, or failed."""

    @property
    def body(self) -> bytes:
        """OpenAI's error object as JSON."""
        return orjson.dumps({"error": {"message": str(self), "type": "server_error", "code": "answer_failed"}})


def answer(
    request: RetrievalRequest,
    prompt: str,
    sources: Sequence[dict[str, Any]],
    settings: AnswerSettings,
    authorization: str,
    send: Send,
) -> bytes:
    """Ask for an answer and return its body, or what is left of a stream when send has got all of it but the end.

    authorization: of the client's request. send: gets a stream's events as they come, `sources` in the first.
    Raises RequestError with the server's own status for a 4xx, AnswerFailed for everything else.
    """
    body = orjson.dumps(_body(request, prompt, settings))
    headers = {"Content-Type": "application/json", "Accept": "*/*"}
    if value := _authorization(settings, authorization):
        headers["Authorization"] = value
    address = address_of(settings)
    connection = _connection(address.scheme, address.hostname or "", address.port, settings.timeout_s)
    path = f"{address.path.rstrip('/')}/{request.path.removeprefix('v1/')}"
    try:
        connection.request("POST", path, body, headers)
        reply = connection.getresponse()
        if reply.status != HTTPStatus.OK:
            raise _refused(reply)
        if EVENT_STREAM in (reply.getheader("Content-Type") or ""):
            for event in with_sources(reply, sources):
                send(event)
            return b""
        return _whole(_read(reply, settings.timeout_s), sources)
    except (OSError, http.client.HTTPException) as error:
        raise AnswerFailed(f"the server that writes answers: {type(error).__name__}: {error}") from None
    finally:
        connection.close()


def address_of(settings: AnswerSettings) -> SplitResult:
    """Where the API is; a path alone is one of this worker's own TorchServe."""
    return urlsplit(urljoin(os.environ.get(URL_VARIABLE, DEFAULT_URL), settings.base_url))


def with_sources(lines: Any, sources: Sequence[dict[str, Any]]) -> Iterator[bytes]:
    """The lines of a stream of server-sent events, with `sources` in the first one that holds an object.

    Raises AnswerFailed when it ends without [DONE]: http.client gives no sign of a stream that was cut off.
    """
    told = ended = False
    for line in lines:
        ended = ended or line.removeprefix(b"data:").strip() == b"[DONE]"
        if not told and line.startswith(b"data:") and (event := _object(line[5:])) is not None:
            told = True
            yield b"data: " + orjson.dumps(event | {"sources": list(sources)}) + b"\n"
        else:
            yield line
    if not ended:
        raise AnswerFailed("the server that writes answers broke off")


def _body(request: RetrievalRequest, prompt: str, settings: AnswerSettings) -> dict[str, Any]:
    given = {"max_tokens": settings.max_tokens, **(request.answer or {}), "model": settings.model}
    if request.path != CHAT:
        return given | {"prompt": prompt}
    return given | {"messages": [*given["messages"][:-1], {"role": "user", "content": prompt}]}


def _authorization(settings: AnswerSettings, clients: str) -> str:
    """The YAML's own key; without one the client's goes on, but never to another machine."""
    if settings.api_key_env:
        return f"Bearer {os.environ.get(settings.api_key_env, '')}"
    host = address_of(settings).hostname or ""
    return clients if host == "localhost" or _is_loopback(host) else ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _connection(scheme: str, host: str, port: int | None, timeout_s: float) -> http.client.HTTPConnection:
    if scheme == "https":
        return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=ssl.create_default_context())
    return http.client.HTTPConnection(host, port, timeout=timeout_s)


def _refused(reply: http.client.HTTPResponse) -> RequestError | AnswerFailed:
    said = reply.read(MOST_ERROR_BYTES).decode(errors="replace").strip()
    message = f"the server that writes answers said {reply.status}: {said[:300]}"
    if 400 <= reply.status < 500:
        return RequestError(reply.status, "answer_refused", message)
    return AnswerFailed(message)


def _read(reply: http.client.HTTPResponse, timeout_s: float) -> bytes:
    """The whole body in time: what trickles in would outlast TorchServe's responseTimeout. Raises TimeoutError."""
    pieces, last = [], time.monotonic() + timeout_s
    while piece := reply.read1(1 << 16):
        pieces.append(piece)
        if time.monotonic() > last:
            raise TimeoutError(f"no whole answer in {timeout_s:g} s")
    return b"".join(pieces)


def _whole(body: bytes, sources: Sequence[dict[str, Any]]) -> bytes:
    document = _object(body)
    if document is None:
        raise AnswerFailed(f"the server that writes answers sent no JSON object: {body[:100]!r}")
    return orjson.dumps(document | {"sources": list(sources)})


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None
