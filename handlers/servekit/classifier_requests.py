"""The dialects in which images and texts come to be classified, and labels go.

An image: its file's bytes, {"inputs": base64 | [base64, …]}, or numbers that the client has prepared itself, as
{"pixel_values": nested list} or .npy bytes. A text: plain, or {"inputs": text | {"text", "text_pair"} | [ … ]}.
Pure functions between bodies and ClassifierRequest; knows nothing of models or TorchServe.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import Field

from servekit.errors import RequestError
from servekit.settings import ClassifierSettings, PositiveInt
from servekit.strict import Strict
from servekit.wire import Body, validate

Floats = NDArray[np.float32]
Item = Union[bytes, str, "tuple[str, str]", Floats]
"""An image file, a text, a pair of texts, or prepared pixels [3, H, W]."""

NPY = "application/x-npy"
IMAGE_TYPES = ("image/*", NPY, "application/octet-stream", "")
DATA_URL = "data:"


class Parameters(Strict):
    """What a request may choose, in the spelling of transformers' pipelines."""

    top_k: PositiveInt | None = None
    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = None


class TextPair(Strict):
    """Two texts that are judged together."""

    text: str
    text_pair: str


class TextBody(Strict):
    """{"inputs": …} of a text model."""

    inputs: str | TextPair | Annotated[list[str | TextPair], Field(min_length=1)]
    parameters: Parameters = Parameters()


class ImageBody(Strict):
    """{"inputs": …} of an image model, base64 with or without a data: URL's head."""

    inputs: str | Annotated[list[str], Field(min_length=1)]
    parameters: Parameters = Parameters()


class PixelBody(Strict):
    """Numbers that are fed to an image model as they are: [3, H, W], or a list of those."""

    pixel_values: list[Any]
    parameters: Parameters = Parameters()


@dataclass(frozen=True)
class ClassifierRequest:
    """one: the client sent a single input and gets a single list of labels. function: "" for the model's own."""

    items: list[Item]
    one: bool
    top_k: int
    function: str = ""


def parse_image_request(body: Body, settings: ClassifierSettings, shape: tuple[int, ...]) -> ClassifierRequest:
    """shape: [3, H, W] of prepared pixels. Raises RequestError."""
    if not body.is_json:
        item = _pixels(_load_npy(body.content), shape) if body.media_type == NPY else [body.content]
        return ClassifierRequest([*item], len(item) == 1, settings.top_k)
    if isinstance(body.content, dict) and "pixel_values" in body.content:
        pixels = validate(PixelBody, body.content)
        items: list[Item] = [*_pixels(_array(pixels.pixel_values), shape)]
        one = _depth(pixels.pixel_values) == len(shape)
        return _request(items, one, pixels.parameters, settings)
    parsed = validate(ImageBody, {"inputs": body.content} if isinstance(body.content, str) else body.content)
    texts = [parsed.inputs] if isinstance(parsed.inputs, str) else parsed.inputs
    items = [_from_base64(text) for text in texts]
    return _request(items, isinstance(parsed.inputs, str), parsed.parameters, settings)


def parse_text_request(body: Body, settings: ClassifierSettings) -> ClassifierRequest:
    """Raises RequestError: 422 for a wrong shape or an empty text, 413 for too many."""
    content = body.content if body.is_json and not isinstance(body.content, str) else {"inputs": body.content}
    parsed = validate(TextBody, content)
    inputs = parsed.inputs if isinstance(parsed.inputs, list) else [parsed.inputs]
    items: list[Item] = [text if isinstance(text, str) else (text.text, text.text_pair) for text in inputs]
    for index, text in enumerate(items):
        if not str(text[0] if isinstance(text, tuple) else text).strip():
            raise RequestError(422, "empty_input", f"text {index} is empty")
    return _request(items, not isinstance(parsed.inputs, list), parsed.parameters, settings)


def scores_of(logits: Floats, function: str) -> Floats:
    """logits [N, C] → scores [N, C]: softmax, sigmoid or none. Raises RequestError 422 when they are not finite."""
    if not np.isfinite(logits).all():
        raise RequestError(422, "not_finite", "the model's answer to this input is not finite")
    if function == "softmax":
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))
    if function == "sigmoid":
        # tanh does not overflow, as exp(-x) does at -1000.
        return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))
    return logits


def render_reply(request: ClassifierRequest, scores: Floats, labels: list[str]) -> bytes:
    """scores [items, C] → JSON: a list of {"label", "score"}, best first; for a list of inputs, a list of those."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, : request.top_k]
    answers = [
        [{"label": labels[place], "score": float(row[place])} for place in places]
        for row, places in zip(scores, best, strict=True)
    ]
    return orjson.dumps(answers[0] if request.one else answers)


def _request(items: list[Item], one: bool, parameters: Parameters, settings: ClassifierSettings) -> ClassifierRequest:
    limit = settings.max_items_per_request
    if len(items) > limit:
        raise RequestError(413, "too_many_items", f"{len(items)} inputs in one request, the limit is {limit}")
    top_k = parameters.top_k or settings.top_k
    return ClassifierRequest(items, one, top_k, parameters.function_to_apply or "")


def _from_base64(text: str) -> bytes:
    encoded = text.partition(",")[2] if text.startswith(DATA_URL) else text
    if not encoded:
        raise RequestError(422, "empty_input", "inputs: there is no image in the request")
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:  # ValueError: not even ASCII
        raise RequestError(400, "invalid_base64", f"inputs: not base64: {error}") from None


def _load_npy(raw: bytes) -> NDArray[Any]:
    try:
        # Never allow_pickle: a pickle runs code.
        version = np.lib.format.read_magic(file := io.BytesIO(raw))
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
        # The header says how much memory to take: believe it only when that many bytes came.
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(raw) - file.tell():
            raise ValueError("the header does not fit the data")
        return np.asarray(np.load(io.BytesIO(raw), allow_pickle=False))
    except (ValueError, EOFError, SyntaxError, TypeError, OverflowError) as error:
        raise RequestError(400, "invalid_npy", f"the body is no .npy array: {error}") from None


def _array(values: list[Any]) -> NDArray[Any]:
    try:
        return np.asarray(values, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise RequestError(422, "invalid_pixels", f"pixel_values: {error}") from None


def _depth(values: Any) -> int:
    return 1 + _depth(values[0]) if isinstance(values, list) and values else 0


def _pixels(array: NDArray[Any], shape: tuple[int, ...]) -> list[Floats]:
    """One or many prepared images as a list of [3, H, W]."""
    if array.shape[-len(shape) :] != shape or array.ndim not in (len(shape), len(shape) + 1) or not array.size:
        found, wanted = " × ".join(map(str, array.shape)), " × ".join(map(str, shape))
        raise RequestError(422, "invalid_pixels", f"pixels of shape {found}, the model takes {wanted}")
    if array.dtype.kind not in "fiu":
        raise RequestError(422, "invalid_pixels", f"pixels of type {array.dtype}, the model takes float32")
    with np.errstate(over="ignore"):
        images = np.ascontiguousarray(array, dtype=np.float32).reshape(-1, *shape)
    if not np.isfinite(images).all():
        raise RequestError(422, "not_finite", "the pixels hold NaN or infinite values")
    return list(images)
