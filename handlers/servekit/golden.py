"""A request with a known right answer, made when the archive is built and asked again wherever the model runs.

The answer comes from the plain eager model, so it also judges what was compiled. Pure Python: the kit compares
where no torch is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

GOLDEN_FILE = "golden.json"


@dataclass(frozen=True)
class Golden:
    """body is posted as JSON to /predictions/<model>; the reply must be near what is expected.

    passages: expected is for each query the source and start of the first passage; tolerance is not used.
    text: expected is for each input what its generated_text has to begin with; tolerance is not used.
    vectors: expected is a list of vectors, tolerance the most that a cosine may be below 1.
    scores: expected is for each input a score by label, tolerance the most that a score may differ, relative to
    scores beyond 1.
    """

    body: dict[str, object]
    kind: Literal["passages", "vectors", "scores", "text"]
    expected: list[Any]
    tolerance: float

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
            answers = json.loads(reply)
        except ValueError:
            return f"not JSON: {reply[:80]!r}"
        if not isinstance(answers, list) or len(answers) != len(self.expected):
            return f"expected {len(self.expected)} answers, got {str(answers)[:200]}"
        judges: dict[str, Callable[[Any, object, float], str]]
        judges = {
            "passages": passages_problem,
            "vectors": vector_problem,
            "scores": scores_problem,
            "text": text_problem,
        }
        for index, (expected, found) in enumerate(zip(self.expected, answers, strict=True)):
            if problem := judges[self.kind](expected, found, self.tolerance):
                return f"answer {index}: {problem}"
        return ""


def passages_problem(expected: Mapping[str, Any], found: object, tolerance: float) -> str:
    """What is wrong with one {"passages"}, whose first has to be the expected one."""
    passages = found.get("passages") if isinstance(found, dict) else None
    if not isinstance(passages, list) or not passages or not isinstance(passages[0], dict):
        return f"expected passages, got {str(found)[:80]}"
    first = {key: passages[0].get(key) for key in expected}
    return "" if first == dict(expected) else f"expected the passage {dict(expected)}, got {first}"


def vector_problem(expected: Sequence[float], found: object, tolerance: float) -> str:
    """What is wrong with one vector."""
    if not isinstance(found, list) or len(found) != len(expected):
        return f"expected {len(expected)} numbers, got {str(found)[:80]}"
    similarity = cosine(expected, found)
    if not similarity >= 1 - tolerance:  # also catches NaN
        return f"cosine {similarity:.6f} to the reference is below {1 - tolerance}"
    return ""


def scores_problem(expected: Mapping[str, float], found: object, tolerance: float) -> str:
    """What is wrong with one list of {"label", "score"}, which may hold only the best."""
    if not isinstance(found, list) or not found:
        return f"expected labels with scores, got {str(found)[:80]}"
    for each in found:
        label = str(each.get("label")) if isinstance(each, dict) else ""
        if label not in expected:
            return f"expected one of the labels {', '.join(expected)[:80]}, got {str(each)[:80]}"
        if not abs(each["score"] - expected[label]) <= tolerance * max(1.0, abs(expected[label])):
            return f"{label} has score {each['score']:.4f}, the reference {expected[label]:.4f}"
    return ""


def text_problem(expected: str, found: object, tolerance: float) -> str:
    """What is wrong with one {"generated_text"}."""
    text = found.get("generated_text") if isinstance(found, dict) else None
    if not isinstance(text, str):
        return f"expected a generated_text, got {str(found)[:80]}"
    return "" if text.startswith(expected) else f"expected {expected!r}, got {text[:80]!r}"


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    """Cosine of the angle between two vectors; NaN when one is zero."""
    norms = math.hypot(*a) * math.hypot(*b)
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / norms if norms else math.nan
