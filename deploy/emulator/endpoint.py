"""One endpoint: its states, the fleets that serve it, and the deployment that may be under way.

Creating → InService | Failed; Updating → InService, or RollingBack → InService as it was, with a FailureReason;
Deleting → gone. One operation at a time, each in a thread. Knows nothing of requests' form; control.py checks that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from deploy.emulator import access, logs
from deploy.emulator.container import Container, Spec
from deploy.emulator.errors import StartFailed
from deploy.emulator.host import Host
from deploy.emulator.permissions import read_role
from deploy.emulator.traffic import Fleet, Router, Variant, steps

SERVING = ("InService", "Updating", "RollingBack")
LONGEST_STREAM_S = 480.0
ALARM_POLL_S = 0.2
REASON_CHARACTERS = 1024


@dataclass(frozen=True)
class Snapshot:
    """A configuration and its models as they were when a deployment began; deleting them later changes nothing."""

    config: dict[str, Any]
    models: dict[str, dict[str, Any]]


@dataclass
class Pending:
    """A deployment that is under way."""

    config: dict[str, Any]
    started: float
    stage: str = "Creating"
    fleet: Fleet | None = None


class Endpoint:
    """Made with status Creating; create() begins it."""

    def __init__(self, host: Host, name: str, arn: str, region: str, snapshot: Snapshot) -> None:
        self.host = host
        self.name = name
        self.arn = arn
        self.region = region
        self.status = "Creating"
        self.failure_reason = ""
        self.created = self.modified = time.time()
        self.snapshot = snapshot
        self.deployment: dict[str, Any] = {}
        self.pending: Pending | None = None
        self.fleet: Fleet | None = None
        self.router = Router()
        self.containers: list[Container] = []
        """All that run or start for it."""

    @property
    def serving(self) -> bool:
        """Whether requests are answered."""
        return self.status in SERVING

    def now(self) -> Fleet:
        """What serves. Raises LookupError when nothing does."""
        if self.fleet is None:
            raise LookupError(f"nothing serves {self.name}")
        return self.fleet

    def create(self, deployment: dict[str, Any]) -> None:
        """Begin it."""
        self.deployment = deployment
        self._begin("Creating", self._create, self.snapshot)

    def update(self, snapshot: Snapshot, deployment: dict[str, Any], keep: Callable[[Fleet], None]) -> None:
        """Begin to go over to another configuration. keep: gives a new fleet what is kept of the old one."""
        self._begin("Updating", self._update, snapshot, deployment, keep)

    def rescale(self, change: Callable[[Fleet], None]) -> None:
        """Begin to change weights or numbers of instances."""
        self._begin("Updating", self._rescale, change)

    def delete(self, gone: Callable[[], None]) -> None:
        """Begin to delete it; gone is called at the end."""
        self._begin("Deleting", self._delete, gone)

    def close(self) -> None:
        """Stop all its containers at once, whatever is in flight: the emulator ends."""
        self.router.share({})
        _stop_all(list(self.containers))

    def _begin(self, status: str, work: Callable[..., None], *arguments: Any) -> None:
        def run() -> None:
            try:
                work(*arguments)
            finally:  # only a mistake of the emulator's own leaves it between two states
                self.pending = None
                if self.status in ("Creating", "Updating", "RollingBack"):
                    self._turn("Failed", "The emulator failed; its log says how.")

        self._turn(status)
        threading.Thread(target=run, name=f"{status} {self.name}", daemon=True).start()

    def _turn(self, status: str, failure_reason: str = "") -> None:
        self.failure_reason = failure_reason[:REASON_CHARACTERS]
        self.modified = time.time()
        self.status = status
        self.host.report(f"endpoint {self.name}: {status} {self.failure_reason}".rstrip())

    def _create(self, snapshot: Snapshot) -> None:
        self.pending = Pending(snapshot.config, time.time())
        try:
            self.fleet = self._start(snapshot)
        except StartFailed as error:
            self.pending = None
            self._turn("Failed", str(error))
        else:
            self.router.share({self.fleet: 1.0})
            self.pending = None
            self._turn("InService")

    def _update(self, snapshot: Snapshot, deployment: dict[str, Any], keep: Callable[[Fleet], None]) -> None:
        old, new = self.now(), None
        self.pending = Pending(snapshot.config, time.time())
        alarms = [alarm["AlarmName"] for alarm in deployment.get("AutoRollbackConfiguration", {}).get("Alarms", [])]
        policy = deployment.get("BlueGreenUpdatePolicy") or deployment.get("RollingUpdatePolicy") or {}
        limit_s = policy.get("MaximumExecutionTimeoutInSeconds", float("inf")) * self.host.options.limit_scale
        deadline = time.monotonic() + limit_s
        try:
            if alarms:
                access.check_alarms(self.host, snapshot.models.values(), alarms, self.region)
                self._bake(0, alarms, deadline)
            new = self.pending.fleet = self._start(snapshot)
            keep(new)
            for step in steps(deployment, min(variant.instances for variant in new.variants)):
                self.pending.stage = "ActivatingTraffic"
                self.router.share({old: 1.0 - step.share, new: step.share})
                self.pending.stage = "Baking"
                self._bake(step.wait_s, alarms, deadline)
            self._bake(policy.get("TerminationWaitInSeconds", 0), alarms, deadline)
        except StartFailed as error:
            self._turn("RollingBack", str(error))
            self.router.share({old: 1.0})
            if new is not None:
                self._retire(new)
            self.pending = None
            self._turn("InService", str(error))
        else:
            self.snapshot, self.fleet, self.deployment = snapshot, new, deployment
            self._retire(old)
            self.pending = None
            self._turn("InService")

    def _rescale(self, change: Callable[[Fleet], None]) -> None:
        change(self.now())
        self._turn("InService")

    def _delete(self, gone: Callable[[], None]) -> None:
        self.router.share({})
        if self.fleet:
            self._retire(self.fleet)
        gone()

    def _start(self, snapshot: Snapshot) -> Fleet:
        """A fleet whose containers are all healthy. Raises StartFailed; then none of them is left."""
        config = snapshot.config
        for model in snapshot.models.values():
            access.check_start(self.host, model, config, self.region)
        started: list[Container] = []
        try:
            variants = [self._variant(each, snapshot, started) for each in config["ProductionVariants"]]
            shadows = [self._variant(each, snapshot, started) for each in config.get("ShadowProductionVariants", [])]
        except StartFailed:
            self._stop(started)
            raise
        return Fleet(config, variants, shadows)

    def _variant(self, settings: dict[str, Any], snapshot: Snapshot, started: list[Container]) -> Variant:
        model = snapshot.models[settings["ModelName"]]
        definition, name = model["PrimaryContainer"], settings["VariantName"]
        role = model.get("ExecutionRoleArn")
        spec = Spec(f"{self.name}-{name}-{uuid4().hex[:8]}", definition, settings, self.region, role)
        s3 = self.host.client("s3", self.region)
        container = Container(spec, self.host.options, self.host.faults, s3, self.host.report)
        self.containers.append(container)
        started.append(container)
        try:
            container.start()
        finally:
            self._deliver_logs(container)
        weight = settings.get("InitialVariantWeight", 1.0)
        return Variant(name, settings, definition["Image"], container, weight, settings["InitialInstanceCount"])

    def _deliver_logs(self, container: Container) -> None:
        arn = container.spec.role
        role = read_role(self.host.client("iam", self.region), arn) if arn else None
        logs.deliver(self.host, self.region, self.name, role, container)

    def _bake(self, wait_s: float, alarms: list[str], deadline: float) -> None:
        """Watch alarms for as long as the scale makes of wait_s. Raises StartFailed when one goes off."""
        end = time.monotonic() + wait_s * self.host.options.time_scale
        while True:
            if alarms:
                self._check_alarms(alarms)
            left_s = end - time.monotonic()
            if left_s <= 0:
                return
            if time.monotonic() > deadline:
                raise StartFailed("The deployment took longer than MaximumExecutionTimeoutInSeconds.")
            time.sleep(min(ALARM_POLL_S, left_s))

    def _check_alarms(self, names: list[str]) -> None:
        found = self.host.client("cloudwatch", self.region).describe_alarms(
            AlarmNames=names, AlarmTypes=["MetricAlarm", "CompositeAlarm"]
        )
        states = {alarm["AlarmName"]: alarm["StateValue"] for alarm in found["MetricAlarms"] + found["CompositeAlarms"]}
        if missing := [name for name in names if name not in states]:
            raise StartFailed(f"Alarms that the deployment watches do not exist: {', '.join(missing)}.")
        if gone_off := [name for name in names if states[name] == "ALARM"]:
            raise StartFailed(f"Alarms that the deployment watches went into ALARM: {', '.join(gone_off)}.")

    def _retire(self, fleet: Fleet) -> None:
        """Stop a fleet that gets nothing any more, once nothing of it is in flight."""
        if not self.router.drain(fleet, LONGEST_STREAM_S * self.host.options.limit_scale):
            self.host.report(f"endpoint {self.name}: {fleet.in_flight} requests were cut")
        self._stop([variant.container for variant in [*fleet.variants, *fleet.shadows]])

    def _stop(self, containers: list[Container]) -> None:
        _stop_all(containers)
        for container in containers:
            self._deliver_logs(container)
            self.host.violations += container.violations
            if container in self.containers:
                self.containers.remove(container)


def _stop_all(containers: list[Container]) -> None:
    if containers:
        with ThreadPoolExecutor(len(containers)) as pool:
            list(pool.map(Container.stop, containers))
