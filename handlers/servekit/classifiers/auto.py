"""Which step is fastest: measured on this machine, with this worker's threads, once, and remembered.

Knows nothing of how steps work.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence

import torch

from servekit import fingerprint
from servekit.classifiers.module import ClassifierSpec, Inputs
from servekit.log import log
from servekit.machine_cache import cache_folder
from servekit.timing import by_turns

BUDGET_S = 2.0
TOKENS = 64
STEADY = 1.5
Table = dict[str, dict[str, float]]
"""Milliseconds by step and by batch size."""


def best_step(table: Mapping[str, Mapping[str, float]]) -> str:
    """The step with the lowest geometric mean over the batch sizes, of those slower than eager at none of them."""
    eager = table["eager"]
    sound = [step for step, ms in table.items() if all(ms[size] <= eager[size] for size in eager)]
    return min(sound, key=lambda step: math.prod(table[step].values()))


def measured(
    spec: ClassifierSpec, runs: Mapping[str, Callable[[], Callable[[Inputs], object]]], budget_s: float = BUDGET_S
) -> Table:
    """The table of these steps, out of this machine's memory or measured now.

    runs: a function a step that loads it; nothing is loaded when the table is remembered. Of several workers that
    start together one measures, the others wait for it.
    """
    path = cache_folder("ladder") / f"{_key(spec, sorted(runs))}.json"
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            table: Table = json.loads(path.read_text())
            log.info("%s: this machine's measurement is in %s", spec.name, path)
            return table
        table, steady = _measure(spec, {step: load() for step, load in runs.items()}, budget_s)
        if steady:
            path.write_text(json.dumps(table) + "\n")
        else:
            log.info("%s: the machine was busy while this was measured; the next start measures again", spec.name)
    return table


def in_words(table: Mapping[str, Mapping[str, float]]) -> str:
    """One line: `eager 75.2, compile 44.0 ms at batch 1; …`."""
    sizes = next(iter(table.values()))
    return "; ".join(
        ", ".join(f"{step} {ms[size]:.1f}" for step, ms in table.items()) + f" ms at batch {size}" for size in sizes
    )


def _measure(
    spec: ClassifierSpec, loaded: Mapping[str, Callable[[Inputs], object]], budget_s: float
) -> tuple[Table, bool]:
    """The shortest times, and whether the machine was quiet enough for them to be remembered."""
    table: Table = {step: {} for step in loaded}
    steady = True
    for size in spec.batch_sizes:
        example = spec.example(size, TOKENS)
        calls = {step: functools.partial(run, example) for step, run in loaded.items()}
        for call in calls.values():
            call()
        for step, times in by_turns(calls, budget_s).items():
            table[step][str(size)] = round(min(times), 3)
            steady &= is_steady(times)
    return table, steady


def is_steady(times: Sequence[float]) -> bool:
    """Whether the median is near the shortest: beside another busy process it is several times that."""
    return statistics.median(times) <= STEADY * min(times)


def _key(spec: ClassifierSpec, steps: Sequence[str]) -> str:
    parts = [
        fingerprint.machine(), fingerprint.cpu_model(), torch.get_num_threads(),
        spec.sha256, spec.settings_key, list(steps),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
