"""The `loadtest:` section of a model's YAML: what is sent, when, and what the service promises. No arithmetic here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from servekit.settings import PositiveInt
from servekit.strict import Strict

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Arrivals = Literal["closed", "constant", "poisson", "gamma", "ramp", "trace"]
TargetKind = Literal[
    "predictions",
    "invocations",
    "openai-completions",
    "openai-chat",
    "openai-embeddings",
    "sagemaker",
    "sagemaker-stream",
]


class Percentiles(Strict):
    """Upper limits in milliseconds."""

    p50: Positive | None = None
    p90: Positive | None = None
    p95: Positive | None = None
    p99: Positive | None = None


class Slo(Strict):
    """What the service promises; the _sched metrics count from the intended send time."""

    e2e_ms: Percentiles | None = None
    e2e_sched_ms: Percentiles | None = None
    ttft_ms: Percentiles | None = None
    ttft_sched_ms: Percentiles | None = None
    tpot_ms: Percentiles | None = None
    itl_ms: Percentiles | None = None
    error_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of requests that may fail."""
    strict: bool = False
    """Judge by each percentile's 95 % upper bound instead of its value."""

    def limits(self) -> Iterator[tuple[str, str, float]]:
        """Metric, percentile and milliseconds of every limit on a latency."""
        for metric in ("e2e_ms", "e2e_sched_ms", "ttft_ms", "ttft_sched_ms", "tpot_ms", "itl_ms"):
            for name, limit in (getattr(self, metric) or Percentiles()).model_dump(exclude_none=True).items():
                yield metric, name, limit

    def request_limits(self) -> dict[str, float]:
        """What a single answer may take to count as goodput: for each metric the limit of its highest percentile."""
        return {metric: limit for metric, _, limit in self.limits()}


class LoadTest(Strict):
    """How the model is measured."""

    payloads: str
    """A folder of loadtest/payloads, or any folder: files that are a request each, and .jsonl files of JSON bodies."""
    target: TargetKind | None = None
    """Which endpoint and dialect; by the model's handler when not given."""
    stream: bool | None = None
    """Ask for a stream; text generation's default."""
    max_tokens: PositiveInt = 64
    """Text generation: new tokens that each request asks for."""
    arrivals: Arrivals = "poisson"
    rate: Positive | None = None
    """Requests a second; of a ramp, the first. A trace keeps its own when there is none."""
    end_rate: Positive | None = None
    """ramp: the last rate."""
    burstiness: Positive = 1.0
    """gamma: 1 is Poisson, less comes in bursts, more is more even."""
    trace: str | None = None
    """trace: a file of seconds, one a line, or JSON lines with "timestamp"."""
    clients: PositiveInt = 8
    """closed: clients that each wait for their answer."""
    think_time_s: NotNegative = 0.0
    """closed: between an answer and the next request."""
    warmup_s: NotNegative = 5.0
    """The same arrivals before the measured phase; they are not counted, and the server is not drained between."""
    duration_s: Positive = 60.0
    """The measured phase."""
    timeout_s: Positive = 30.0
    """An answer that takes longer is a failure; also how long the last answers are waited for."""
    users: PositiveInt = 500
    """Open arrivals: most requests in flight, of all workers together; more wait, and their lag is counted."""
    seed: int = 0
    slo: Slo = Slo()

    @model_validator(mode="after")
    def _arrivals_have_what_they_need(self) -> LoadTest:
        needed = {"ramp": "end_rate", "trace": "trace"}.get(self.arrivals)
        if needed and getattr(self, needed) is None:
            raise ValueError(f"arrivals: {self.arrivals} needs {needed}")
        for kind, key in (("ramp", "end_rate"), ("trace", "trace")):
            if getattr(self, key) is not None and self.arrivals != kind:
                raise ValueError(f"{key} goes with arrivals: {kind}, and only with it")
        if self.arrivals == "closed":
            scheduled = sorted({metric for metric, _, _ in self.slo.limits() if metric.endswith("_sched_ms")})
            if scheduled:
                raise ValueError(f"slo.{scheduled[0]}: a closed loop has no intended times; without _sched it has")
        return self
