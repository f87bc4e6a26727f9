"""Milliseconds of classifiers on this CPU, measured by turns so that what else the machine does hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from archives.distillation.inputs import Batch

WARM_UP_RUNS = 3
ROUNDS = 20
BURST = 5


def measure(calls: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median milliseconds of each call, over rounds of bursts by turns; the first run of a burst is not counted."""
    for call in calls.values():
        for _ in range(WARM_UP_RUNS):
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            call()  # brings this network's weights into the caches
            for _ in range(BURST):
                started = time.perf_counter()
                call()
                times[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in times.items()}


def forward(model: Any, batch: Batch) -> Callable[[], object]:
    """The model's forward pass on one batch, as it is served: eval, inference_mode."""
    model.eval()

    def call() -> object:
        with torch.inference_mode():
            return model(**batch)

    return call
