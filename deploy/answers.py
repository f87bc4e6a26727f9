"""How two answers to the same request differ: a pure function over statuses, content types and bodies.

Vectors by cosine and by the largest difference of a number, labels by the best one, text by where it first differs,
all else as JSON, or byte by byte. Streams are compared by the text that they bring, not by how it was cut. Knows
nothing of where answers come from.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from dataclasses import asdict, dataclass
from typing import Any, Literal

from servekit.golden import cosine

Kind = Literal["vectors", "labels", "text", "json", "bytes"]


@dataclass(frozen=True)
class Answer:
    """status: None when there was none, error then says why. seconds: to the last byte."""

    status: int | None
    content_type: str = ""
    body: bytes = b""
    seconds: float | None = None
    error: str = ""


@dataclass(frozen=True)
class Difference:
    """equal: nothing differs at all; the fields of other kinds than its own are None.

    cosine: the least of all vectors; largest: difference of any two numbers of them; label_agrees: the best one is the
    same, for every input; first_difference: the place in the text, in characters, None where it is the same.
    """

    kind: Kind | None
    equal: bool
    what: str = ""
    cosine: float | None = None
    largest: float | None = None
    label_agrees: bool | None = None
    first_difference: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def within(self, least_cosine: float) -> bool:
        """Whether an application would call them the same: vectors need not be equal to the last bit."""
        if self.kind == "vectors" and self.cosine is not None:
            return self.cosine >= least_cosine
        return bool(self.label_agrees) if self.kind == "labels" else self.equal


def compare(primary: Answer, mirror: Answer) -> Difference:
    """How the mirror's answer differs."""
    if mirror.status is None:
        return Difference(None, False, f"no answer: {mirror.error}")
    if primary.status != mirror.status:
        return Difference(None, False, f"status {primary.status} and {mirror.status}")
    if primary.status != 200:
        return Difference(None, True)
    if primary.body == mirror.body:
        kind, _ = read(primary)
        if kind == "vectors":
            return Difference(kind, True, cosine=1.0, largest=0.0)
        return Difference(kind, True, label_agrees=True if kind == "labels" else None)
    (kind, ours), (other, theirs) = read(primary), read(mirror)
    if kind != other:
        return Difference(None, False, f"{kind} and {other}")
    if kind == "vectors":
        return _compare_vectors(ours, theirs)
    if kind == "labels":
        return Difference(kind, ours == theirs, label_agrees=best(ours) == best(theirs))
    if kind == "text":
        return _compare_text(ours, theirs)
    return Difference(kind, kind == "json" and ours == theirs)


def read(answer: Answer) -> tuple[Kind, Any]:
    """What an answer is, and its value: vectors, label lists, one text, any JSON, or the bytes."""
    if answer.content_type.partition(";")[0].strip() == "text/event-stream" or answer.body.startswith(b"data:"):
        text = _stream_text(answer.body)
        return ("text", text) if text is not None else ("bytes", answer.body)
    try:
        document = json.loads(answer.body)
    except ValueError:
        try:
            return "text", answer.body.decode()
        except UnicodeDecodeError:
            return "bytes", answer.body
    for kind, reader in (("vectors", _vectors), ("labels", _labels), ("text", _texts)):
        if (value := reader(document)) is not None:
            return kind, value  # type: ignore[return-value] # one of the three
    return "json", document


def best(labels: list[list[dict[str, Any]]]) -> list[str]:
    """The label with the highest score of each input."""
    return [str(max(each, key=lambda found: found["score"])["label"]) for each in labels]


def _compare_vectors(ours: list[list[float]], theirs: list[list[float]]) -> Difference:
    if [len(each) for each in ours] != [len(each) for each in theirs]:
        return Difference("vectors", False, "other numbers of vectors or of their elements", cosine=0.0)
    pairs = list(zip(ours, theirs, strict=True))
    cosines = [cosine(a, b) for a, b in pairs if a != b]
    # The cosine of a vector of zeros is no number; beside another one it is as far away as can be.
    least = min((found if found == found else 0.0 for found in cosines), default=1.0)
    largest = max((abs(x - y) for a, b in pairs for x, y in zip(a, b, strict=True)), default=0.0)
    return Difference("vectors", ours == theirs, cosine=least, largest=largest)


def _compare_text(ours: str, theirs: str) -> Difference:
    if ours == theirs:
        return Difference("text", True)
    shorter = min(len(ours), len(theirs))
    place = next((at for at in range(shorter) if ours[at] != theirs[at]), shorter)
    return Difference("text", False, first_difference=place)


def _is_vector(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in value)
    )


def _vectors(document: Any) -> list[list[float]] | None:
    """One vector, a list of them, or OpenAI's embeddings."""
    if _is_vector(document):
        return [document]
    if isinstance(document, list) and document and all(map(_is_vector, document)):
        return document
    data = document.get("data") if isinstance(document, dict) else None
    if isinstance(data, list) and data and all(isinstance(each, dict) and "embedding" in each for each in data):
        found = [_embedding(each["embedding"]) for each in data]
        return [each for each in found if each] if all(found) else None
    return None


def _embedding(value: Any) -> list[float] | None:
    if _is_vector(value):
        return list(value)
    try:
        raw = base64.b64decode(value, validate=True)
        return [each for (each,) in struct.iter_unpack("<f", raw)]
    except (TypeError, ValueError, binascii.Error, struct.error):
        return None


def _labels(document: Any) -> list[list[dict[str, Any]]] | None:
    """[{"label", "score"}, …] of one input, or a list of such."""
    lists = [document] if isinstance(document, list) and document and isinstance(document[0], dict) else document
    if not isinstance(lists, list) or not lists:
        return None
    for each in lists:
        if not isinstance(each, list) or not each:
            return None
        if not all(isinstance(found, dict) and {"label", "score"} <= found.keys() for found in each):
            return None
    return lists


def _texts(document: Any) -> str | None:
    """Generated text of TGI's and OpenAI's whole answers; ids, times and usage are no part of it."""
    if isinstance(document, str):
        return document
    items = document if isinstance(document, list) else [document]
    found = [_text_of(item) for item in items]
    return "\n".join(each for each in found if each is not None) if found and None not in found else None


def _text_of(item: Any) -> str | None:
    if not isinstance(item, dict):
        return None
    if isinstance(item.get("generated_text"), str):
        return str(item["generated_text"])
    choices = item.get("choices")
    if not isinstance(choices, list):
        return None
    return "".join(map(_piece, choices))


def _piece(choice: Any) -> str:
    """The text of one of OpenAI's choices, whole or a stream's."""
    if not isinstance(choice, dict):
        return ""
    inner = choice.get("message") or choice.get("delta") or {}
    text = choice.get("text") or (inner.get("content") if isinstance(inner, dict) else None)
    return text if isinstance(text, str) else ""


def _stream_text(body: bytes) -> str | None:
    """The text that a stream of server-sent events brought; None when it cannot be read."""
    pieces = []
    for line in body.split(b"\n"):
        data = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:") or data in (b"", b"[DONE]"):
            continue
        try:
            event = json.loads(data)
        except ValueError:
            return None
        if not isinstance(event, dict):
            return None
        token = event.get("token")
        if isinstance(token, dict):
            pieces.append("" if token.get("special") else str(token.get("text", "")))
        else:
            choices = event.get("choices")
            pieces += map(_piece, choices if isinstance(choices, list) else [])
    return "".join(pieces)
