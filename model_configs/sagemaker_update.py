"""`deploy.sagemaker.update` of a model's YAML: how an endpoint goes over to a new version, and what sends it back.

Limits are those of SageMaker's deployment guardrails. Knows nothing of the endpoint.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from servekit.settings import PositiveInt
from servekit.strict import Strict

Strategy = Literal["all_at_once", "canary", "linear", "rolling"]
WaitSeconds = Annotated[int, Field(ge=0, le=3600)]
AlarmName = Annotated[str, Field(min_length=1, max_length=255, pattern=r"\S")]
SIZES_PERCENT: dict[str, tuple[int, int]] = {"canary": (1, 50), "linear": (10, 50), "rolling": (5, 50)}
"""Least and most of the fleet that one step may take."""
MOST_ALARMS = 10


class LatencyLimits(Strict):
    """Upper limits of ModelLatency in milliseconds, which SageMaker measures in microseconds."""

    average: Annotated[float, Field(gt=0)] | None = None
    p90: Annotated[float, Field(gt=0)] | None = None
    p95: Annotated[float, Field(gt=0)] | None = None
    p99: Annotated[float, Field(gt=0)] | None = None


class RollbackOn(Strict):
    """Alarms on the new fleet alone; any of them sends the endpoint back to its old version."""

    error_rate: Annotated[float, Field(gt=0, le=1)] | None = 0.01
    """Share of requests that the model answered with 5xx; null: no such alarm."""
    model_latency_ms: LatencyLimits | None = None
    period_s: Literal[60, 120, 300, 600] = 60
    """Over which an alarm's metric is taken."""
    periods: PositiveInt = 2
    """Bad ones in a row before an alarm goes off."""
    alarms: Annotated[list[AlarmName], Field(max_length=MOST_ALARMS)] = Field(default_factory=list)
    """Names of CloudWatch alarms of your own."""

    @model_validator(mode="after")
    def _not_too_many(self) -> RollbackOn:
        own = len(self.latencies) + (self.error_rate is not None)
        if own + len(self.alarms) > MOST_ALARMS:
            raise ValueError(f"alarms: {len(self.alarms)} and {own} of the kit's are more than {MOST_ALARMS}")
        if len(set(self.alarms)) < len(self.alarms):
            raise ValueError("alarms: a name stands twice")
        return self

    @property
    def latencies(self) -> dict[str, float]:
        """Milliseconds by statistic."""
        return self.model_latency_ms.model_dump(exclude_none=True) if self.model_latency_ms else {}


class Update(Strict):
    """How an endpoint goes over to a new version."""

    strategy: Strategy = "all_at_once"
    """all_at_once, canary, linear: a second fleet is made and traffic moves to it, at once, in two steps, or in equal
    ones. rolling: instances are replaced batch by batch, and no second fleet is paid for."""
    size_percent: PositiveInt | None = None
    """Of the fleet: the canary, a linear step, or a rolling batch."""
    size_instances: PositiveInt | None = None
    """The same in instances."""
    wait_s: WaitSeconds = 300
    """Between two steps, while the alarms are watched."""
    termination_wait_s: WaitSeconds = 0
    """How long the old fleet stays when the new one has all traffic."""
    max_execution_s: Annotated[int, Field(ge=600, le=28800)] | None = None
    """An update that takes longer is rolled back."""
    rollback_size_percent: Annotated[int, Field(ge=5, le=100)] | None = None
    """Rolling: the batch on the way back; all at once if not given."""
    rollback_on: RollbackOn | None = RollbackOn()
    """null: no alarm is watched."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> Update:
        sizes = (self.size_percent is not None) + (self.size_instances is not None)
        if self.strategy == "all_at_once":
            if sizes:
                raise ValueError("size_percent, size_instances: strategy all_at_once has no steps")
        elif sizes != 1:
            raise ValueError(f"size_percent or size_instances, one of the two, goes with strategy {self.strategy}")
        else:
            least, most = SIZES_PERCENT[self.strategy]
            if self.size_percent and not least <= self.size_percent <= most:
                raise ValueError(
                    f"size_percent: {self.size_percent} is not between {least} and {most}, as {self.strategy} needs"
                )
        return self

    @model_validator(mode="after")
    def _rolling_is_another_policy(self) -> Update:
        if self.strategy == "rolling" and self.termination_wait_s:
            raise ValueError("termination_wait_s: strategy rolling has no second fleet that could stay")
        if self.strategy != "rolling" and self.rollback_size_percent:
            raise ValueError("rollback_size_percent: goes with strategy rolling only")
        return self

    @model_validator(mode="after")
    def _waits_fit(self) -> Update:
        if self.max_execution_s is not None and self.max_execution_s <= self.waits_s():
            raise ValueError(
                f"max_execution_s: {self.max_execution_s} is not more than the {self.waits_s()} s of waits alone"
            )
        return self

    def waits_s(self, instances: int = 1) -> int:
        """Seconds that an update of so many instances waits at least, besides what the instances take to start."""
        if self.strategy in ("all_at_once", "canary"):
            steps = 2
        elif self.size_percent:
            steps = math.ceil(100 / self.size_percent)
        else:
            steps = math.ceil(instances / (self.size_instances or 1))
        return (steps - 1) * self.wait_s + self.termination_wait_s

    def size_problem(self, instances: int) -> str | None:
        """Why size_instances does not fit a fleet of this size, or None."""
        if self.size_instances is None or self.strategy == "all_at_once":
            return None
        least, most = SIZES_PERCENT[self.strategy]
        share = 100 * self.size_instances / instances
        if least <= share <= most:
            return None
        return (
            f"update.size_instances: {self.size_instances} of instance_count={instances} is {share:.0f} %, not "
            f"{least} to {most} as {self.strategy} needs"
        )
