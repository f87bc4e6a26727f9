"""TorchServe's rows and headers to a body, and replies back. Knows nothing of any dialect or model.

What a handler gets is a list of rows: {"body": bytes} for a raw body, one entry a field for a form, {} for a form
that the frontend could not parse. Header names keep the client's spelling; `url_path` is what followed
/predictions/<model>/<version>/ (InferenceRequestHandler.java).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from servekit.errors import RequestError

JSON = "application/json"
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
# curl -T sends no content type, boto3's invoke_endpoint octet-stream unless it is told otherwise.
TEXTS = ("", "text/plain", "application/octet-stream")

Row = Mapping[str, Any]
Headers = Mapping[str, Any]


class Body(NamedTuple):
    """A request's content: parsed JSON when is_json, else text."""

    content: Any
    is_json: bool


def header(headers: Headers, name: str) -> str:
    """A request header by name in any case, or the empty string."""
    for key, value in headers.items():
        if isinstance(value, str) and key.lower() == name:
            return value
    return ""


def url_path(headers: Headers) -> str:
    """The path after the model's version, without slashes around it."""
    return header(headers, "url_path").strip("/")


def read_body(row: Row, headers: Headers, max_bytes: int) -> Body:
    """A row's body as JSON or text, by its content type. Raises RequestError 400, 413 or 415."""
    media_type = header(headers, "content-type").split(";")[0].strip().lower()
    if media_type in FORMS:
        raise RequestError(
            400,
            "form_body",
            f"the body came as a form ({media_type}), which is what curl -d and -F send; "
            "set -H 'Content-Type: application/json' or 'text/plain'",
        )
    value = row.get("body", row.get("data", b""))  # gRPC clients name the field themselves, by custom "data"
    if isinstance(value, (dict, list)):  # decoded by the worker, where decode_input_request is on
        return Body(value, is_json=True)
    raw = value.encode() if isinstance(value, str) else bytes(value)
    if len(raw) > max_bytes:
        raise RequestError(413, "body_too_large", f"the body has {len(raw)} bytes, the limit is {max_bytes}")
    if media_type == JSON or media_type.endswith("+json"):
        return Body(_parse_json(raw), is_json=True)
    if media_type in TEXTS or media_type.startswith("text/"):
        return Body(_decode(raw), is_json=False)
    raise RequestError(
        415, "unsupported_media_type", f"content type {media_type!r} is not supported; send {JSON} or text/plain"
    )


def _decode(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(
            400, "invalid_utf8", f"the body is not UTF-8: {error.reason} at byte {error.start}"
        ) from None


def _parse_json(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        _decode(raw)  # a clearer error than JSON's when the bytes are not even text
        raise RequestError(400, "invalid_json", f"the body is not JSON: {error}") from None


def send(context: Any, index: int, body: bytes, status: int = 200, phrase: str = "OK") -> bytes:
    """Set one reply's status and content type; bytes, since TorchServe pretty-prints anything else."""
    context.set_response_status(status, phrase, index)
    context.set_response_content_type(index, JSON)
    return body


def send_error(context: Any, index: int, error: RequestError) -> bytes:
    """One reply for a refused request."""
    return send(context, index, error.body, int(error.status), error.status.phrase)
