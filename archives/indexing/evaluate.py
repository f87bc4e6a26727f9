"""How well passages answer questions whose answers are known: recall and nDCG. Pure.

Knows nothing of vectors; whoever asks brings the search.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from model_configs.errors import KitError

Search = Callable[[list[str], int], list[list[str]]]
"""For each text the sources of its nearest passages, best first, that many."""
PASSAGES_PER_RANK = 10
"""Several passages of one document are one result, so more are asked for than are judged."""


@dataclass(frozen=True)
class Question:
    """topics: all sources that answer it."""

    question: str
    topics: tuple[str, ...]


@dataclass(frozen=True)
class Quality:
    """Means over questions. recall_at_5: one of the first 5 passages is of a document that answers.

    ndcg_at_10: of the first 10 documents, each counted once where its first passage stands; a document that answers
    gains 1 (Järvelin and Kekäläinen, ACM TOIS 20, 2002).
    """

    questions: int
    recall_at_5: float
    ndcg_at_10: float


def read_questions(file: Path) -> list[Question]:
    """A JSON line a question: {"question", "topics"}. Raises KitError that names the line."""
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            document = json.loads(line)
            found.append(Question(document["question"], tuple(document["topics"])))
        except (ValueError, KeyError, TypeError):
            raise KitError(f'{file}:{number}: not {{"question": …, "topics": […]}}', "a question a line") from None
    if not found:
        raise KitError(f"{file} holds no questions", "a question a line")
    return found


def evaluate(questions: Sequence[Question], search: Search) -> Quality:
    """Ask all questions at once and judge what was found."""
    found = search([each.question for each in questions], 10 * PASSAGES_PER_RANK)
    pairs = list(zip(questions, found, strict=True))
    return Quality(
        questions=len(pairs),
        recall_at_5=fmean(any(source in each.topics for source in sources[:5]) for each, sources in pairs),
        ndcg_at_10=fmean(ndcg(list(dict.fromkeys(sources))[:10], each.topics) for each, sources in pairs),
    )


def ndcg(ranked: Sequence[str], right: Sequence[str]) -> float:
    """Of documents, best first, against those that are right; 1 when these stand first."""
    gained = sum(1 / math.log2(place + 2) for place, source in enumerate(ranked) if source in right)
    best = sum(1 / math.log2(place + 2) for place in range(min(len(right), 10)))
    return gained / best
