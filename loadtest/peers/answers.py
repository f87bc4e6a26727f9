"""The vector in a server's reply, whichever way it speaks, and whether it is the model's. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from servekit.golden import cosine

LEAST_COSINE: Mapping[str, float] = {"fp32": 0.999, "int8": 0.95}
"""To the eager float32 model's vector: below that it is another model, or a damaged one."""


def vector_of(reply: bytes) -> list[float]:
    """Of a bare list, {"embedding": […]} or OpenAI's reply. Raises ValueError when it is none of them."""
    found: Any = json.loads(reply)
    if isinstance(found, dict) and isinstance(found.get("data"), list) and found["data"]:
        found = found["data"][0]
    if isinstance(found, dict):
        found = found.get("embedding")
    if not isinstance(found, list) or not found or not all(isinstance(each, float | int) for each in found):
        raise ValueError(f"no vector: {reply[:100]!r}")
    return found


def wrong_vector(reply: bytes, expected: Sequence[float], precision: str) -> str:
    """What is wrong with a reply; empty when it is right."""
    try:
        vector = vector_of(reply)
    except ValueError as error:
        return str(error)
    if len(vector) != len(expected):
        return f"{len(vector)} numbers instead of {len(expected)}"
    similarity = cosine(expected, vector)
    least = LEAST_COSINE[precision]
    return "" if similarity >= least else f"cosine {similarity:.4f} to the model's own vector is below {least}"
