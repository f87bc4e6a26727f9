"""A request with a known right answer, made when the archive is built and asked again wherever the model runs.

The answer comes from the plain eager model, so it also judges what was compiled. Pure Python: the kit compares
where no torch is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

GOLDEN_FILE = "golden.json"


@dataclass(frozen=True)
class Golden:
    """body is posted as JSON to /predictions/<model>; the reply must be vectors with at least min_cosine to these."""

    body: dict[str, object]
    vectors: list[list[float]]
    min_cosine: float

    def save(self, folder: Path) -> None:
        """Write golden.json into folder."""
        (folder / GOLDEN_FILE).write_text(json.dumps(asdict(self)) + "\n")

    @classmethod
    def parse(cls, text: str | bytes) -> Golden:
        """Read what save wrote."""
        return cls(**json.loads(text))

    def verdict(self, reply: bytes) -> str:
        """What is wrong with a reply, or the empty string when it is right."""
        try:
            vectors = json.loads(reply)
        except ValueError:
            return f"not JSON: {reply[:80]!r}"
        if not isinstance(vectors, list) or len(vectors) != len(self.vectors):
            return f"expected {len(self.vectors)} vectors, got {str(vectors)[:200]}"
        for index, (expected, found) in enumerate(zip(self.vectors, vectors, strict=True)):
            if not isinstance(found, list) or len(found) != len(expected):
                return f"vector {index}: expected {len(expected)} numbers, got {str(found)[:80]}"
            similarity = cosine(expected, found)
            if not similarity >= self.min_cosine:  # also catches NaN
                return f"vector {index}: cosine {similarity:.6f} to the reference is below {self.min_cosine}"
        return ""


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    """Cosine of the angle between two vectors; NaN when one is zero."""
    norms = math.hypot(*a) * math.hypot(*b)
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / norms if norms else math.nan
