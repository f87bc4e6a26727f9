"""What one run sends and where: all that a generator has to know, as one JSON file. Knows nothing of results."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from loadtest import arrivals
from loadtest.records import Phase
from model_configs.errors import KitError
from model_configs.loadtest import LoadTest, TargetKind
from servekit.strict import Strict

PLAN_FILE = "plan.json"


class Target(Strict):
    """An endpoint."""

    kind: TargetKind
    url: str
    """http://host:port; for SageMaker the runtime's URL, or "" for the region's own."""
    model: str
    """The model's name on the server; for SageMaker the endpoint's."""
    version: str | None = None
    """Only where the path needs it: TorchServe's OpenAI paths are /predictions/<model>/<version>/v1/…"""
    token_file: str | None = None
    """TorchServe's key_file.json, which is read again when a token has expired. Without one, SERVEKIT_TOKEN's value."""
    stream: bool = False
    region: str | None = None
    """SageMaker: the AWS region, when the environment names none."""


class Plan(Strict):
    """One run."""

    target: Target
    load: LoadTest
    payloads: str
    """The folder of payloads, found."""
    folder: str
    """Where records are written."""

    @property
    def closed(self) -> bool:
        """Whether clients wait for their answers before they send again."""
        return self.load.arrivals == "closed"

    @property
    def total_s(self) -> float:
        """Warm-up and measured phase."""
        return self.load.warmup_s + self.load.duration_s

    def phase_at(self, time_s: float) -> Phase:
        """The phase of a request that is intended at this time."""
        return "warmup" if time_s < self.load.warmup_s else "measure"

    def timetable(self) -> list[float]:
        """Every request's intended time from the run's beginning: the warm-up's, then the measured phase's.

        Raises KitError when there is no rate, a trace that cannot be read, or less than a request.
        """
        load = self.load
        warmup = _times(load, load.warmup_s, "warmup")
        times = [*warmup, *(load.warmup_s + each for each in _times(load, load.duration_s, "measure"))]
        if len(times) == len(warmup):
            raise KitError(
                f"{load.rate:g} requests/s for {load.duration_s:g} s are none" if load.rate else "no request in time",
                "a longer --duration, or a higher --rate",
            )
        return times


def _times(load: LoadTest, duration_s: float, phase: Literal["warmup", "measure"]) -> list[float]:
    seed = 2 * load.seed + (phase == "measure")
    if load.arrivals == "trace":
        return _replayed(load, duration_s, phase, seed)
    if load.rate is None:
        raise KitError("loadtest.rate: an open loop needs a rate", "give --rate, or --arrivals closed")
    if load.arrivals == "constant":
        return arrivals.constant(load.rate, duration_s)
    if load.arrivals == "gamma":
        return arrivals.gamma(load.rate, duration_s, seed, load.burstiness)
    if load.arrivals == "ramp" and phase == "measure":
        return arrivals.ramp(load.rate, load.end_rate or load.rate, duration_s, seed)
    return arrivals.poisson(load.rate, duration_s, seed)


def _replayed(load: LoadTest, duration_s: float, phase: str, seed: int) -> list[float]:
    """The trace; before it, for the warm-up, a Poisson process of the trace's mean rate."""
    try:
        recorded = arrivals.read_trace(Path(load.trace or ""))
    except (OSError, ValueError) as error:
        raise KitError(f"loadtest.trace: {error}", "one number of seconds a line") from None
    if phase == "measure":
        return arrivals.replay(recorded, duration_s, load.rate)
    span_s = max(recorded) - min(recorded)
    rate = load.rate or (len(recorded) / span_s if span_s else math.inf)
    return arrivals.poisson(rate, duration_s, seed) if math.isfinite(rate) else []
