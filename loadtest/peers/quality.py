"""What fewer bits cost: cosines to float32 over real texts, and what retrieval finds. Figures only."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from archives import indexing
from archives.indexing.evaluate import Search, evaluate, read_questions
from archives.indexing.sources import TOPICS, documents
from archives.indexing.split import passages
from loadtest.benchmark import Found, Row, progress
from loadtest.peers import onnx_files, sides
from loadtest.peers.in_process import texts_of
from loadtest.peers.sides import EAGER, KIT, ONNX, ONNX_INT8, Side
from servekit.vectors import Vectors, normalised

QUESTIONS = Path(indexing.__file__).with_name("pydoc_questions.jsonl")
PAYLOADS = ("short_queries", "documents", "mixed")
PASSAGE_CHARS = 1000
SHORTEST_SENTENCE = 20
"""Characters; less is no sentence."""
MEAN_TARGET, MIN_TARGET, LOSS_TARGET = 0.99, 0.98, 1.0


def measure(most_sentences: int, payloads: Sequence[str] = PAYLOADS, most_passages: int | None = None) -> Found:
    """Every side's vectors of the same texts against sentence-transformers' in float32, and an exact search by them."""
    texts = [*sentences(most_sentences), *(text for name in payloads for text in texts_of(name))]
    pieces = [each for document in documents(TOPICS) for each in passages(document, PASSAGE_CHARS, 0)][:most_passages]
    questions = read_questions(QUESTIONS)
    cosines: dict[str, tuple[float, float]] = {}
    found: dict[str, float] = {}
    with sides.started(onnx=onnx_files.INT8) as there:
        reference = there.running[EAGER].vectors(texts)
        for name, side in there.running.items():
            progress.print(f"  {name}")
            if name != EAGER:
                cosines[name] = cosine_to(reference, side.vectors(texts))
                search = searching(side, [each.text for each in pieces], [each.source for each in pieces])
                found[name] = evaluate(questions, search).ndcg_at_10
    count = f"{len(texts)} texts: sentences of CPython's topics and loadtest/payloads"
    asked = f"{len(questions)} questions, {len(pieces)} passages"
    return Found(
        [*cosine_rows(cosines, there.missing, count), *search_rows(found, there.missing, asked)],
        {"missing": dict(there.missing)},
    )


def sentences(most: int) -> list[str]:
    """Of CPython's own topics, evenly out of all of them."""
    found = [
        " ".join(sentence.split())
        for document in documents(TOPICS)
        for sentence in re.split(r"(?<=[.:!?])\s+|\n\n", document.text)
    ]
    whole = list(dict.fromkeys(each for each in found if len(each) >= SHORTEST_SENTENCE))
    step = max(1, len(whole) // most)
    return whole[::step][:most]


def cosine_to(reference: Vectors, vectors: Vectors) -> tuple[float, float]:
    """Mean and minimum over texts."""
    cosines = (normalised(reference) * normalised(vectors)).sum(1)
    return float(cosines.mean()), float(cosines.min())


def searching(side: Side, texts: Sequence[str], sources: Sequence[str]) -> Search:
    """An exact search in these passages by a side's own vectors of them."""
    passages_by = normalised(side.vectors(texts))

    def search(questions: list[str], k: int) -> list[list[str]]:
        scores = normalised(side.vectors(questions)) @ passages_by.T  # [questions, passages]
        nearest = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return [[sources[place] for place in row] for row in nearest]

    return search


def cosine_rows(cosines: Mapping[str, tuple[float, float]], missing: Mapping[str, str], note: str) -> list[Row]:
    """Mean and minimum of each side, and how much nearer int8 is than ONNX Runtime's."""
    targets = {KIT["int8"]: (MEAN_TARGET, MIN_TARGET)}
    rows = []
    for name in (*KIT.values(), *ONNX_INT8):
        mean, least = cosines.get(name, (None, None))
        reason = note if name in cosines else missing.get(name, "not measured")
        own = targets.get(name, (None, None))
        rows += [
            Row(f"cosine to float32, mean: {name}", mean, "", reason, own[0]),
            Row(f"cosine to float32, lowest: {name}", least, "", reason, own[1]),
        ]
    what = "int8, how much nearer to float32 than ONNX Runtime int8"
    theirs = [cosines[name][0] for name in ONNX_INT8 if name in cosines]
    if KIT["int8"] not in cosines or not theirs:
        return [*rows, Row(what, None, "×", missing.get(ONNX_INT8[0], "not measured"), 1.0)]
    nearer = (1 - max(theirs)) / max(1e-9, 1 - cosines[KIT["int8"]][0])
    return [*rows, Row(what, nearer, "×", "1 - mean cosine, theirs by ours; the better of theirs", 1.0)]


def search_rows(found: Mapping[str, float], missing: Mapping[str, str], note: str) -> list[Row]:
    """nDCG@10 of each side, and what int8 loses of our own."""
    rows = [
        Row(f"nDCG@10: {name}", found.get(name), "", note if name in found else missing.get(name, "not measured"))
        for name in (*KIT.values(), *(ONNX[file] for file in onnx_files.INT8))
    ]
    for precision, target in (("int8", LOSS_TARGET), ("bf16", None)):
        what, name = f"nDCG@10 lost: {KIT[precision]}", KIT[precision]
        if name not in found or KIT["fp32"] not in found:
            rows.append(Row(what, None, "%", missing.get(name, "not measured"), target, at_most=True))
        else:
            rows.append(Row(what, 100 * (1 - found[name] / found[KIT["fp32"]]), "%", "", target, at_most=True))
    return rows
