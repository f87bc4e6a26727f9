"""How long a forward pass takes, and a set of texts of mixed lengths, on every side without HTTP. Figures only."""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from loadtest import workload
from loadtest.benchmark import Found, Row, progress, until
from loadtest.peers import sides
from loadtest.peers.sides import EAGER, KIT, ONNX_FP32, ONNX_INT8

SHAPES = ((1, 13), (1, 78), (8, 45), (32, 65))
"""Texts × tokens of each."""
WHOLE, SLICED = "mixed, whole set", "mixed, 32 at a time"
BATCH = 32
SLICED_TEXTS = 128
EAGER_TARGETS = {"1×13": 3.0, "1×78": 2.2, WHOLE: 2.0}
INT8_TARGET = 1.6
LARGE = ("8×45", "32×65", WHOLE, SLICED)
"""Of batches of 8 and more."""
Times = Mapping[str, Mapping[str, Sequence[float]]]
"""Milliseconds by what is computed and by side."""


def measure(budget_s: float, at_least: int, bursts: int, most_texts: int | None = None) -> Found:
    """All sides by turns. budget_s, at_least: of turns at each shape; bursts: timed calls of a turn."""
    texts = texts_of("mixed")[:most_texts]
    with sides.started() as there:
        running = there.running
        times: dict[str, dict[str, list[float]]] = {}
        for shape in SHAPES:
            ids = random_ids(*shape)
            calls = {name: partial(side.forward_ms, ids, bursts) for name, side in running.items()}
            times[f"{shape[0]}×{shape[1]}"] = _by_turns(f"{shape[0]}×{shape[1]}", calls, budget_s, at_least)
        for what, chosen, at_a_time in ((WHOLE, texts, len(texts)), (SLICED, texts[:SLICED_TEXTS], BATCH)):
            calls = {name: partial(side.texts_ms, chosen, at_a_time, 1) for name, side in running.items()}
            times[what] = _by_turns(what, calls, budget_s, at_least)
        versions = {name: side.versions for name, side in running.items()}
    medians = {what: {name: statistics.median(ms) for name, ms in own.items()} for what, own in times.items()}
    return Found(
        [*figures(times, versions), *ratios(times, there.missing)],
        {
            "ms": medians,
            "missing": dict(there.missing),
            "mixed_texts": {WHOLE: len(texts), SLICED: len(texts[:SLICED_TEXTS])},
        },
    )


def _by_turns(
    what: str, calls: Mapping[str, Callable[[], list[float]]], budget_s: float, at_least: int
) -> dict[str, list[float]]:
    progress.print(f"  {what}")
    return until(calls, budget_s, at_least)


def random_ids(texts: int, tokens: int) -> list[list[int]]:
    """The same ones for every side."""
    chooser = random.Random(0)
    return [[chooser.randrange(1000, 20_000) for _ in range(tokens)] for _ in range(texts)]


def texts_of(payloads: str) -> list[str]:
    """A folder of loadtest/payloads."""
    return [json.loads(each.body)["inputs"] for each in workload.load(workload.find(payloads))]


def figures(times: Times, versions: Mapping[str, str]) -> list[Row]:
    """The median of each side."""
    return [
        Row(f"{what}: {name}", statistics.median(ms), "ms", f"{quartiles(ms)}; {versions[name]}")
        for what, own in times.items()
        for name, ms in own.items()
    ]


def ratios(times: Times, missing: Mapping[str, str]) -> list[Row]:
    """What the issue asks, and the same elsewhere."""
    rows = []
    for what, own in times.items():
        compared = partial(faster, what, own, missing)
        fp32, int8 = KIT["fp32"], KIT["int8"]
        rows += [
            compared("against eager", fp32, [EAGER], EAGER_TARGETS.get(what)),
            compared("against ONNX Runtime fp32", fp32, ONNX_FP32, 1.0),
            compared("int8 against our fp32", int8, [fp32], INT8_TARGET if what in LARGE else None),
            compared("int8 against ONNX Runtime int8", int8, ONNX_INT8, 1.0),
            compared("bf16 against our fp32", KIT["bf16"], [fp32], None),
        ]
    return rows


def faster(
    what: str,
    own: Mapping[str, Sequence[float]],
    missing: Mapping[str, str],
    words: str,
    ours: str,
    theirs: Sequence[str],
    target: float | None,
) -> Row:
    """How many times as fast ours is as the fastest of theirs; no value but the reason where one is missing."""
    medians = {name: statistics.median(own[name]) for name in theirs if name in own}
    if ours not in own or not medians:
        reason = missing.get(ours) or missing.get(theirs[0]) or "not measured"
        return Row(f"{what}: {words}", None, "×", reason, target)
    best = min(medians, key=lambda name: medians[name])
    note = best if len(theirs) > 1 else ""
    return Row(f"{what}: {words}", medians[best] / statistics.median(own[ours]), "×", note, target)


def quartiles(values: Sequence[float]) -> str:
    """How far the middle half lies apart."""
    if len(values) < 2:
        return f"{len(values)} calls"
    low, _, high = statistics.quantiles(values, n=4)
    return f"quartiles {low:.2f} to {high:.2f}, {len(values)} calls"
