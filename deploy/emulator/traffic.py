"""Which container a request goes to, and what is in flight: shares of fleets, weights of variants, drains.

A fleet is what one configuration runs as; during a blue-green deployment there are two. Shares are exact, not random: a
canary of 10 % gets each tenth request. Knows nothing of HTTP.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from deploy.emulator.container import Container
from deploy.emulator.rules import percent

T = TypeVar("T", bound=Hashable)


@dataclass(eq=False)
class Variant:
    """A variant that runs. settings: its ProductionVariant; its container stands for all its instances."""

    name: str
    settings: dict[str, Any]
    image: str
    container: Container
    weight: float
    instances: int


@dataclass(eq=False)
class Fleet:
    """What one endpoint configuration runs as. config: the request that made it, as it was then."""

    config: dict[str, Any]
    variants: list[Variant]
    shadows: list[Variant]
    in_flight: int = 0
    turns: Turns[Variant] = field(default_factory=lambda: Turns[Variant]())

    @property
    def config_name(self) -> str:
        """Of its configuration."""
        return str(self.config["EndpointConfigName"])


class Turns(Generic[T]):
    """Smooth weighted round robin: of any n in a row, each gets its share, give or take one."""

    def __init__(self) -> None:
        self._credit: dict[T, float] = {}

    def next(self, weights: Mapping[T, float]) -> T:
        """Whose turn it is. Some weight has to be more than 0."""
        credit = {each: self._credit.get(each, 0.0) + weight for each, weight in weights.items() if weight > 0}
        chosen = max(credit, key=lambda each: credit[each])
        credit[chosen] -= sum(weights.values())
        self._credit = credit
        return chosen


class NoVariant(LookupError):
    """The request names a variant that the endpoint does not have."""


class Lease:
    """A request's hold on its fleet, from before it is sent until the last byte of its answer."""

    def __init__(self, router: Router, fleet: Fleet, variant: Variant) -> None:
        self.fleet = fleet
        self.variant = variant
        self._router = router
        self._held = True

    def again(self, variant: Variant) -> Lease:
        """Another one, of a variant of the same fleet, while this one is held."""
        self._router.held(self.fleet)
        return Lease(self._router, self.fleet, variant)

    def release(self) -> None:
        """More than once does no harm."""
        if self._held:
            self._held = False
            self._router.released(self.fleet)


class Router:
    """One endpoint's."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._shares: dict[Fleet, float] = {}
        self._turns: Turns[Fleet] = Turns()

    def share(self, shares: dict[Fleet, float]) -> None:
        """From now on each fleet gets its share; a fleet that is not named gets nothing."""
        with self._changed:
            self._shares = dict(shares)

    def lease(self, target: str | None = None) -> Lease | None:
        """The next request's, None when nothing serves. target: a variant's name. Raises NoVariant."""
        with self._changed:
            if not any(self._shares.values()):
                return None
            fleet = self._turns.next(self._shares)
            named = [variant for variant in fleet.variants if target in (None, variant.name)]
            if not named:
                raise NoVariant(str(target))
            variant = named[0] if target else fleet.turns.next({each: each.weight for each in named})
            fleet.in_flight += 1
            return Lease(self, fleet, variant)

    def held(self, fleet: Fleet) -> None:
        """Called by a lease."""
        with self._changed:
            fleet.in_flight += 1

    def released(self, fleet: Fleet) -> None:
        """Called by a lease."""
        with self._changed:
            fleet.in_flight -= 1
            self._changed.notify_all()

    def drain(self, fleet: Fleet, timeout_s: float) -> bool:
        """Wait until nothing of a fleet is in flight, having taken its share away before; whether that came."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            return self._changed.wait_for(lambda: fleet.in_flight == 0, deadline - time.monotonic())


@dataclass(frozen=True)
class Step:
    """share: of the new fleet, up to 1; wait_s: how long alarms are watched before the next step."""

    share: float
    wait_s: float


def steps(deployment: Mapping[str, Any], instances: int) -> list[Step]:
    """How traffic goes over to the new fleet, by a checked DeploymentConfig; all at once if it has no policy."""
    if rolling := deployment.get("RollingUpdatePolicy"):
        return _even(percent(rolling["MaximumBatchSize"], instances), rolling["WaitIntervalInSeconds"])
    routing = deployment.get("BlueGreenUpdatePolicy", {}).get("TrafficRoutingConfiguration", {})
    wait_s = routing.get("WaitIntervalInSeconds", 0)
    if routing.get("Type") == "CANARY":
        return [Step(percent(routing["CanarySize"], instances) / 100, wait_s), Step(1.0, 0)]
    if routing.get("Type") == "LINEAR":
        return _even(percent(routing["LinearStepSize"], instances), wait_s)
    return [Step(1.0, wait_s)]


def _even(step_percent: float, wait_s: float) -> list[Step]:
    count = math.ceil(100 / step_percent)
    return [Step(min(1.0, number * step_percent / 100), wait_s) for number in range(1, count + 1)]
