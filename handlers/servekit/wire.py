"""TorchServe's rows and headers to a body, and replies back. Knows nothing of any dialect or model.

What a handler gets is a list of rows: {"body": bytes} for a raw body, one entry a field for a form, {} for a form
that the frontend could not parse. Header names keep the client's spelling; `url_path` is what followed
/predictions/<model>/<version>/ (InferenceRequestHandler.java).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, TypeVar

import orjson
from pydantic import ValidationError

from servekit.errors import RequestError
from servekit.strict import Strict, problems

JSON = "application/json"
MULTIPART = "multipart/form-data"
FORMS = ("application/x-www-form-urlencoded", MULTIPART)
# curl -T sends no content type, boto3's invoke_endpoint octet-stream unless it is told otherwise.
TEXTS = ("", "text/plain", "application/octet-stream")

Content = TypeVar("Content", bound=Strict)
Row = Mapping[str, Any]
Headers = Mapping[str, Any]


class Body(NamedTuple):
    """A request's content: parsed JSON when is_json, bytes when its media type is one of those asked for, else text."""

    content: Any
    is_json: bool
    media_type: str = ""


def header(headers: Headers, name: str) -> str:
    """A request header by name in any case, or the empty string."""
    for key, value in headers.items():
        if isinstance(value, str) and key.lower() == name:
            return value
    return ""


def url_path(headers: Headers) -> str:
    """The path after the model's version, without slashes around it."""
    return header(headers, "url_path").strip("/")


def read_body(row: Row, headers: Headers, max_bytes: int, binary: Collection[str] = ()) -> Body:
    """A row's body by its content type: JSON, text, or bytes. Raises RequestError 400, 413 or 415.

    binary: media types whose body is bytes ("image/*" stands for all images); text is then no longer read, and a
    form with one file (curl -F data=@file) is that file.
    """
    media_type = header(headers, "content-type").split(";")[0].strip().lower()
    if binary and media_type == MULTIPART and len(row) == 1:
        row, media_type = {"body": next(iter(row.values()))}, ""
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
        return Body(_parse_json(raw), is_json=True, media_type=media_type)
    if media_type in binary or f"{media_type.split('/')[0]}/*" in binary:
        return Body(raw, is_json=False, media_type=media_type)
    if not binary and (media_type in TEXTS or media_type.startswith("text/")):
        return Body(_decode(raw), is_json=False, media_type=media_type)
    accepted = " or ".join([JSON, *filter(None, binary or ["text/plain"])])
    raise RequestError(415, "unsupported_media_type", f"content type {media_type!r} is not supported; send {accepted}")


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


def validate(model: type[Content], content: Any) -> Content:
    """A JSON body as the dialect's own type. Raises RequestError 422 that names every wrong key."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise RequestError(422, "invalid_request", "; ".join(problems(error, model))) from None


def send(context: Any, index: int, body: bytes, status: int = 200, phrase: str = "OK") -> bytes:
    """Set one reply's status and content type; bytes, since TorchServe pretty-prints anything else."""
    context.set_response_status(status, phrase, index)
    context.set_response_content_type(index, JSON)
    return body


def send_error(context: Any, index: int, error: RequestError) -> bytes:
    """One reply for a refused request."""
    return send(context, index, error.body, int(error.status), error.status.phrase)
